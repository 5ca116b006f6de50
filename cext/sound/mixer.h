// SPDX-License-Identifier: Apache-2.0
/* A sound card's mixer by its ioctls (linux sound/asound.h): the elements of the mixer interface
 * that can be read and written and are numbers, switches or choices; and elements like them on
 * another card (user elements, sound/core/control.c). Every function returns a value >= 0 or a
 * negative errno. */
#ifndef HS_MIXER_H
#define HS_MIXER_H
#include <stdint.h>

#define HS_MIXER_VALUES 128 /* most of one element */
#define HS_MIXER_NAME 44

struct hs_mixer_element {
    char name[HS_MIXER_NAME]; /* ends with a 0 */
    uint32_t index;           /* of several with one name */
    uint32_t number;          /* on its card, until the element goes */
    uint32_t count;           /* of its values */
    int64_t least, most;      /* of a value */
};
_Static_assert(sizeof(struct hs_mixer_element) == 72, "struct hs_mixer_element");

/* How many there are; the first `most` of them. */
int hs_mixer_list(int fd, struct hs_mixer_element *out, uint32_t most);
/* The values of the element with this number; how many. */
int hs_mixer_read(int fd, uint32_t number, int64_t *values);
/* EINVAL: more than the element has. */
int hs_mixer_write(int fd, uint32_t number, const int64_t *values, uint32_t count);
/* Make an element on card `to` that looks like this one of card `from`, dB scale and names of
 * choices too; its number there. EBUSY: it has one of that name. */
int hs_mixer_like(int from, uint32_t number, int to);
/* From now on the descriptor is readable when an element has changed: struct snd_ctl_event. */
int hs_mixer_watch(int fd);
/* Remove every user element of a card. What cannot go is still there. */
int hs_mixer_clear(int fd);

#endif

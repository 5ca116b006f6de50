// SPDX-License-Identifier: Apache-2.0
/* What the running kernel's type information (BTF, /sys/kernel/btf/vmlinux) says. */
#ifndef HS_BTF_H
#define HS_BTF_H
#include <stddef.h>

/* The members of an enumeration, as text, one `VALUE NAME` a line. How many bytes there are, with
 * the 0 at the end; what has no room in `size` is left out. -ENOENT: no such enumeration, or no
 * BTF; another negative errno. */
long hs_btf_enum(const char *name, char *out, size_t size);

#endif

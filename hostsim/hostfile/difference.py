"""What a host file says otherwise than the running host was made from, and `routes apply` does not
change. Pure."""

from hostsim.model import HostSpec

OF_VM = {
    "addresses": "address",
    "memory": "memory",
    "cpus": "cpus",
    "pids": "pids",
    "files": "files",
    "share": "share",
    "root": "root, keep, boot or users",
    "nf": "nf",
    "run": "run",
    "os": "[vm.os]",
    "settings": "the tables of nf",
}
OF_HOST = {"name": "[host] name", "uplinks": "[switch] uplinks", "devices": "[[device]]"}
OF_HOST |= {"nics": "[[device]] interface", "kmc": "[kmc]"}
OF_HOST |= {"screens": "[[device]] screen", "sounds": "[[device]] sound"}
"""Fields of the model, and what the host file calls them."""


def unapplied(running: HostSpec, file: HostSpec) -> list[str]:
    """What differs, in the host file's words; of VMs and endpoints that both have."""
    found = [
        word for name, word in OF_HOST.items() if getattr(running, name) != getattr(file, name)
    ]
    others = {vm.name: vm for vm in (*file.vms, *file.endpoints)}
    for vm in (*running.vms, *running.endpoints):
        other = others.get(vm.name, vm)
        found += [
            f"{word} of {vm.name}"
            for name, word in OF_VM.items()
            if getattr(vm, name) != getattr(other, name)
        ]
    return found

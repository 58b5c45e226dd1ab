"""Runs a program under a filter of system calls, as containers have it: ``python -m tests.seccomp CALLS -- COMMAND``.

CALLS are names of system calls, joined by commas, which then fail with EPERM; ``newuser`` stands for making a
user namespace, by whichever call.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_NUMBERS = {
    "x86_64": {"unshare": 272, "clone": 56, "clone3": 435, "mount": 165},
    "aarch64": {"unshare": 97, "clone": 220, "clone3": 435, "mount": 40},
}
_CLONE_NEWUSER = 0x10000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
#: Of the kernel's classic BPF (linux/filter.h): load a word, jump if equal, jump if a bit is set, return.
_LOAD, _EQUAL, _BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _FIRST_ARGUMENT = 0, 16  # places in struct seccomp_data


def program(names: list[str]) -> list[tuple[int, int, int, int]]:
    """Return the filter's instructions."""
    numbers = _NUMBERS[platform.machine()]
    code = [(_LOAD, 0, 0, _NUMBER)]
    for name in names:
        if name == "newuser":
            for call in ("unshare", "clone"):
                code += [
                    (_EQUAL, 0, 4, numbers[call]),
                    (_LOAD, 0, 0, _FIRST_ARGUMENT),
                    (_BIT, 0, 1, _CLONE_NEWUSER),
                    (_RETURN, 0, 0, _ERRNO | _EPERM),
                    (_LOAD, 0, 0, _NUMBER),
                ]
            # Its flags lie in memory, where no filter can look: as containers do it, callers are sent to clone.
            code += [(_EQUAL, 0, 1, numbers["clone3"]), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
        else:
            code += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    return [*code, (_RETURN, 0, 0, _ALLOW)]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def main() -> None:
    """Become the command, filtered."""
    names, command = sys.argv[1].split(","), sys.argv[3:]
    code = program(names)
    raw = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in code))
    libc = ctypes.CDLL(None, use_errno=True)
    done = _Program(len(code), ctypes.addressof(raw))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(done), 0, 0
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()

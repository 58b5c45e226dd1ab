"""Parts of ELF files that tests make."""

from __future__ import annotations


def abi_tag(*version: int) -> str:
    """Return assembly of a note that asks for a version of Linux, as libc's ``.note.ABI-tag`` does."""
    numbers = ", ".join(map(str, version))
    return (
        '.section .note.ABI-tag, "a", @note\n.balign 4\n'
        f'.long 4, 16, 1\n.asciz "GNU"\n.long 0, {numbers}\n'
        '.section .note.GNU-stack, "", @progbits\n'
    )

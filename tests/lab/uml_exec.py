"""Starts a program so that User Mode Linux works on processors with a large extended state: `uml_exec.py PROGRAM ARGS`.

UML 6.1 sets a guest process's floating point state with PTRACE_SETREGSET, NT_X86_XSTATE and a fixed buffer of 2.7 kB,
which kernels on processors with more state (AMX, ...) refuse: the guest's init dies of SIGSEGV. With PTRACE_GETREGSET
refused by a seccomp filter, UML falls back to PTRACE_GETFPREGS. AVX registers are not kept then, hence the environment
of guests (`guest.NO_AVX`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER, ALLOW, ERRNO = 2, 0x7FFF0000, 0x00050000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
#: Offsets in struct seccomp_data, of an x86-64 system call; the low half of each argument.
NUMBER, FIRST_ARGUMENT, THIRD_ARGUMENT = 0, 16, 32
PTRACE, PTRACE_GETREGSET, NT_X86_XSTATE = 101, 0x4204, 0x202


def _step(code: int, if_true: int, if_false: int, value: int) -> bytes:
    """One instruction of a BPF program (struct sock_filter)."""
    return struct.pack("HBBI", code, if_true, if_false, value)


PROGRAM = b"".join(
    (
        _step(LOAD, 0, 0, NUMBER),
        _step(JUMP_IF_EQUAL, 0, 5, PTRACE),
        _step(LOAD, 0, 0, FIRST_ARGUMENT),
        _step(JUMP_IF_EQUAL, 0, 3, PTRACE_GETREGSET),
        _step(LOAD, 0, 0, THIRD_ARGUMENT),
        _step(JUMP_IF_EQUAL, 0, 1, NT_X86_XSTATE),
        _step(RETURN, 0, 0, ERRNO | errno.EINVAL),
        _step(RETURN, 0, 0, ALLOW),
    )
)


def main(argv: list[str]) -> None:
    """Refuse that one request to this process from now on, and become the program."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(PROGRAM, len(PROGRAM))
    program = struct.pack("HxxxxxxQ", len(PROGRAM) // len(_step(0, 0, 0, 0)), ctypes.addressof(code))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(program), 0, 0):
        sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Takes from this process what decoding does not need: files, sockets, programs, and other processes.

Hostile bytes that take a codec over then have its memory, its processor time and its one connection, and nothing else.
It is done by a filter of system calls (seccomp(2)), which Linux has on x86-64 and on Arm of 64 bits.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# The numbers of system calls on x86-64 and on Arm (asm/unistd_64.h, asm-generic/unistd.h); None where there is no such
# call. They are what a process needs to compute, and to read from and write to what is open already.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # Open descriptors.
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "close": (3, 57),
    "lseek": (8, 62),
    "poll": (7, None),
    "ppoll": (271, 73),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    # Memory.
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    # Threads, locks and signals of this process.
    "exit": (60, 93),
    "exit_group": (231, 94),
    "futex": (202, 98),
    "membarrier": (324, 283),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "set_robust_list": (273, 99),
    "sigaltstack": (131, 132),
    # Times, and what this process has used and may use.
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "getcpu": (309, 168),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getrandom": (318, 278),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "nanosleep": (35, 101),
    "setrlimit": (160, 164),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "uname": (63, 160),
}
# Those that are allowed with some arguments.
_CLONE, _CLONE3 = (56, 220), (435, 435)
_KILL, _TGKILL, _PRLIMIT = (62, 129), (234, 131), (302, 261)
_MMAP, _MPROTECT = (9, 222), (10, 226)
_SECCOMP = (317, 277)
# Its numbers belong to another table of calls, on the same processors.
_X32 = 0x40000000

# The architectures' names in Python, and their numbers in linux/audit.h.
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_CLONE_THREAD = 0x00010000
_PROT_EXEC = 4

# linux/filter.h, linux/bpf_common.h: load a word, mask it, compare it, return.
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
# linux/seccomp.h.
_RET_ALLOW, _RET_ERRNO, _RET_KILL = 0x7FFF0000, 0x00050000, 0x80000000
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_PR_SET_NO_NEW_PRIVS = 38
# Where struct seccomp_data has the call's number, the architecture and the arguments' lower halves.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_OUTPUTS = (1, 2)

_Instruction = tuple[int, int, int, int]


def enter() -> bool:
    """Takes from this process, for good, what decoding does not need. What it imports must have been imported.

    A call that is refused fails with `EPERM`: libraries take a file for one that they may not open. Standard output and
    standard error, which may be a terminal, lead nowhere from then on.

    Returns:
      Whether the kernel does so. It does not on other systems than Linux, on other processors, and where it was built
      without such filters.
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or not architecture or sys.maxsize < 2**32:
        return False
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in _OUTPUTS:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return _install(_filter(*architecture, os.getpid()), architecture[0])


def _filter(column: int, number: int, pid: int) -> list[_Instruction]:
    """The filter as a program of the kernel's, which runs at each call.

    Args:
      column: of the tables above.
      number: of the architecture.
      pid: of this process.
    """
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, number),
        (_RETURN, 0, 0, _RET_KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        _refusal(errno.EPERM),
    ]
    for numbers in _ALLOWED.values():
        call = numbers[column]
        if call is not None:
            program += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _RET_ALLOW)]
    # The C library then tries `clone`, whose flags, unlike this one's, are among the arguments.
    program += [(_EQUAL, 0, 1, _CLONE3[column]), _refusal(errno.ENOSYS)]
    program += _with(_CLONE[column], 0, _CLONE_THREAD, _CLONE_THREAD)
    program += _with(_KILL[column], 0, 0xFFFFFFFF, pid)
    program += _with(_TGKILL[column], 0, 0xFFFFFFFF, pid)
    # Of this process.
    program += _with(_PRLIMIT[column], 0, 0xFFFFFFFF, 0)
    program += _with(_MMAP[column], 2, _PROT_EXEC, 0)
    program += _with(_MPROTECT[column], 2, _PROT_EXEC, 0)
    return [*program, _refusal(errno.EPERM)]


def _with(call: int, argument: int, mask: int, value: int) -> list[_Instruction]:
    """Allows a call where an argument, counted from 0, has a value under a mask; the number is loaded before."""
    return [
        (_EQUAL, 0, 5, call),
        (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
        (_AND, 0, 0, mask),
        (_EQUAL, 0, 1, value),
        (_RETURN, 0, 0, _RET_ALLOW),
        _refusal(errno.EPERM),
    ]


def _refusal(number: int) -> _Instruction:
    return _RETURN, 0, 0, _RET_ERRNO | number


def _install(program: list[_Instruction], column: int) -> bool:
    """Has the kernel run the program at each system call of each thread."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    instructions = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    library = ctypes.CDLL(None, use_errno=True)
    # A process may restrict itself if no program that it starts can have more rights than it has.
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    given = ctypes.byref(Program(len(program), instructions))
    return library.syscall(ctypes.c_long(_SECCOMP[column]), _SET_MODE_FILTER, _ALL_THREADS, given) == 0

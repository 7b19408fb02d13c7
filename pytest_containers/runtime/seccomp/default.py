"""The project's own profile: which system calls a container may make (floor 1).

It allows what Docker's default allows (https://docs.docker.com/engine/security/seccomp/), so that an image
that runs there runs here. What is on no list is refused: calls that act on the whole machine, and those whose
objects no namespace keeps apart, as the kernel's keys (keyrings(7)).

One thing is stricter: an argument that the kernel takes as an int is compared as one. A comparison of all 64
bits lets ``socket(0x100000028, ...)`` pass, of which the kernel keeps AF_VSOCK (net/socket.c).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from pytest_containers.runtime.seccomp.rules import ALLOW, EPERM, ERRNO, Comparison, Rule

__all__ = ["grants"]

_ENOSYS: Final = ERRNO | 38
_INT: Final = 0xFFFF_FFFF

_FILES: Final = """
    open openat openat2 creat close close_range dup dup2 dup3 fcntl flock ioctl
    read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek readahead
    splice tee vmsplice sendfile copy_file_range fallocate fadvise64 truncate ftruncate
    sync syncfs fsync fdatasync sync_file_range cachestat
    stat lstat fstat newfstatat statx statfs fstatfs statmount listmount
    access faccessat faccessat2 getdents getdents64 getcwd chdir fchdir
    chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask
    utime utimes utimensat futimesat rename renameat renameat2 link linkat symlink symlinkat
    readlink readlinkat unlink unlinkat mkdir mkdirat rmdir mknod mknodat name_to_handle_at
    getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat
    listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark
    io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
"""
_WAITING: Final = """
    poll ppoll select pselect6
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
    pipe pipe2 eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime
"""
_MEMORY: Final = """
    brk mmap munmap mremap mprotect madvise mincore msync remap_file_pages membarrier mseal
    mlock mlock2 mlockall munlock munlockall memfd_create memfd_secret map_shadow_stack
    pkey_alloc pkey_free pkey_mprotect
"""
_PROCESSES: Final = """
    fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill
    pidfd_open pidfd_send_signal process_mrelease ptrace process_vm_readv process_vm_writev
    getpid getppid gettid getpgid getpgrp setpgid getsid setsid set_tid_address
    futex futex_wait futex_wake futex_waitv futex_requeue set_robust_list get_robust_list rseq
    set_thread_area get_thread_area arch_prctl modify_ldt prctl seccomp restart_syscall uretprobe
    landlock_create_ruleset landlock_add_rule landlock_restrict_self
"""
_SIGNALS: Final = """
    rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait sigaltstack pause alarm getitimer setitimer
"""
_USERS: Final = """
    getuid geteuid getresuid setuid setreuid setresuid setfsuid
    getgid getegid getresgid setgid setregid setresgid setfsgid getgroups setgroups capget capset
"""
_SCHEDULING: Final = """
    sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam
    sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max
    sched_get_priority_min sched_rr_get_interval getpriority setpriority ioprio_get ioprio_set getcpu
    getrlimit setrlimit prlimit64 getrusage times
"""
# clock_adjtime(2) and adjtimex(2) also read; to set the clock takes SYS_TIME, which the kernel asks for.
_TIME: Final = """
    time gettimeofday clock_gettime clock_getres clock_nanosleep clock_adjtime adjtimex nanosleep
    timer_create timer_delete timer_settime timer_gettime timer_getoverrun
"""
_NETWORK: Final = """
    socketpair bind listen accept accept4 connect shutdown getsockname getpeername
    getsockopt setsockopt sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg
"""
_BETWEEN_PROCESSES: Final = """
    msgget msgsnd msgrcv msgctl semget semop semtimedop semctl shmget shmat shmdt shmctl
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
"""
_MACHINE: Final = "uname sysinfo getrandom"
_EVERYBODYS: Final = (
    *(_FILES, _WAITING, _MEMORY, _PROCESSES, _SIGNALS, _USERS),
    *(_SCHEDULING, _TIME, _NETWORK, _BETWEEN_PROCESSES, _MACHINE),
)

# What a capability opens besides (capabilities(7)).
_WITH: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BPF": "bpf",
        "DAC_READ_SEARCH": "open_by_handle_at",
        "PERFMON": "perf_event_open",
        "SYSLOG": "syslog",
        "SYS_ADMIN": """
            mount umount2 mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick
            clone clone3 unshare setns sethostname setdomainname quotactl quotactl_fd fanotify_init
            bpf perf_event_open syslog lookup_dcookie lsm_get_self_attr lsm_set_self_attr lsm_list_modules
        """,
        "SYS_BOOT": "reboot",
        "SYS_CHROOT": "chroot",
        "SYS_MODULE": "init_module finit_module delete_module",
        "SYS_NICE": "get_mempolicy set_mempolicy set_mempolicy_home_node mbind",
        "SYS_PACCT": "acct",
        "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
        "SYS_RAWIO": "iopl ioperm",
        "SYS_TIME": "settimeofday clock_settime",
        "SYS_TTY_CONFIG": "vhangup",
    }
)

# Flags of clone(2) that make a namespace: cgroup, uts, ipc, user, pid, net and mount. With one of its own a
# process has all capabilities in it, and more of the kernel to attack (user_namespaces(7)).
_NAMESPACES: Final = 0x7E02_0000
# Families whose addresses no network namespace keeps apart: AF_ALG and AF_VSOCK (vsock(7)).
_OUTSIDE: Final = (38, 40)
# Linux, UNAME26, either with another machine's name (PER_LINUX32), and the question for what it is
# (personality(2)).
_PERSONALITIES: Final = (0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF)


def _if(argument: int, value: int, mask: int, action: int) -> Rule:
    return Rule((Comparison(argument, "==", value, mask),), action)


_ANY: Final = (Rule((), ALLOW),)
_COMPARED: Final[Mapping[str, tuple[Rule, ...]]] = MappingProxyType(
    {
        "socket": (*(_if(0, family, _INT, EPERM) for family in _OUTSIDE), *_ANY),
        "personality": tuple(_if(0, value, _INT, ALLOW) for value in _PERSONALITIES),
        "clone": (_if(0, 0, _NAMESPACES, ALLOW),),
        # Its flags lie in memory, where no filter reads; C libraries fall back to clone(2).
        "clone3": (Rule((), _ENOSYS),),
    }
)


def grants(capabilities: frozenset[str]) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """Yield each call's name with its rules for a container that has *capabilities*.

    A name that comes again replaces what came before; calls that do not come are refused with EPERM.
    """
    for group in _EVERYBODYS:
        for name in group.split():
            yield name, _ANY
    yield from _COMPARED.items()
    for capability, names in _WITH.items():
        if capability in capabilities:
            for name in names.split():
                yield name, _ANY

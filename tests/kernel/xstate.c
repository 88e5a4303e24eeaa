/*
 * A preload for linux.uml, for host CPUs with a large register state (AMX and later).
 *
 * User-Mode Linux 6.1 keeps a guest process's floating point registers in a buffer of 2696 bytes. On a CPU
 * with AMX the kernel's own state is 11008 bytes, and PTRACE_SETREGSET of NT_X86_XSTATE answers EFAULT to
 * anything shorter than the whole: UML says "do_syscall_stub: SETREGS failed" or kills its first process.
 * PTRACE_GETREGSET has no such demand. So whatever UML wants to set is laid at the start of a zeroed
 * buffer that is large enough for any CPU; an XSAVE header with the bits of the components that are not
 * there clear means "initial state" for those (Intel SDM volume 1, section 13.8). Where the host's state is
 * small nothing changes: the kernel takes as many bytes as it has.
 *
 * Only tests use it; it is compiled into the test cache when they run.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define XSTATE_SET ((void *) 0x202) /* NT_X86_XSTATE, elf.h */

long ptrace(enum __ptrace_request request, ...)
{
    static char whole[65536]; /* UML's userspace side has one thread a guest CPU, and one CPU */
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (request == PTRACE_SETREGSET && address == XSTATE_SET) {
        const struct iovec *given = data;
        if (given->iov_len < sizeof whole) {
            struct iovec full = {whole, sizeof whole};
            memset(whole, 0, sizeof whole);
            memcpy(whole, given->iov_base, given->iov_len);
            return syscall(SYS_ptrace, request, pid, address, &full);
        }
    }
    /* The system call stores what PEEK reads; the library function that this one hides returns it. */
    if (request == PTRACE_PEEKUSER || request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA) {
        long word;
        return syscall(SYS_ptrace, request, pid, address, &word) < 0 ? -1 : word;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}

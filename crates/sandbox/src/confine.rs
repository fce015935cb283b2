//! What every child of the server gets between fork and exec: a session of its own, the limits, no new privileges, and a
//! system call filter. The filter is a second wall behind the container's or bubblewrap's: it closes calls that task code
//! has no use for and that either reach the server (same user: `prlimit`) or widen the kernel's surface.
#![expect(unsafe_code, reason = "code between fork and exec can only be raw system calls")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::limits::Rlimit;

/// The descriptor on which the shell reports statuses.
pub const STATUS_DESCRIPTOR: i32 = 3;

const DENY: u32 = libc::SECCOMP_RET_ERRNO | (libc::EPERM.cast_unsigned() & libc::SECCOMP_RET_DATA);
const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | (libc::ENOSYS.cast_unsigned() & libc::SECCOMP_RET_DATA);
/// Offsets in `struct seccomp_data`.
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
const FIRST_ARGUMENT_OFFSET: u32 = 16;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;
/// x86_64 numbers from here on are the x32 interface, a second door to the same calls.
const X32_START: u32 = 0x4000_0000;

/// Calls that are refused with EPERM.
const DENIED: [libc::c_long; 28] = [
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// How a child is confined.
#[derive(Debug)]
pub struct Confinement {
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// A descriptor the child gets as [`STATUS_DESCRIPTOR`].
    pub status: Option<OwnedFd>,
}

/// Makes `command` apply `confinement` in its child.
pub fn confine(command: &mut Command, confinement: Confinement) {
    let Confinement { rlimits, status } = confinement;
    let filter = filter();
    let apply = move || {
        // Only system calls and memory prepared before the fork: another thread may have held any lock.
        check(i64::from(unsafe { libc::setsid() }))?;
        // A script's background jobs ignore interrupts and hand that down; a shell cannot trap what it was started to
        // ignore, so that a timeout could not interrupt anything.
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        for limit in &rlimits {
            let value = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
            check(i64::from(unsafe { libc::setrlimit(limit.resource, &raw const value) }))?;
        }
        if let Some(status) = &status {
            pass(status.as_raw_fd(), STATUS_DESCRIPTOR)?;
        }
        check(i64::from(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }))?;
        if filter.is_empty() {
            return Ok(());
        }
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).unwrap_or(0),
            filter: filter.as_ptr().cast_mut(),
        };
        check(i64::from(unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
        }))
    };
    // SAFETY: `apply` makes system calls on memory it owns and allocates nothing.
    unsafe { command.pre_exec(apply) };
}

fn pass(from: i32, to: i32) -> io::Result<()> {
    if from == to {
        return check(i64::from(unsafe { libc::fcntl(to, libc::F_SETFD, 0) }));
    }
    check(i64::from(unsafe { libc::dup2(from, to) }))
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The filter as a BPF program; empty on an architecture whose call numbers we have not checked.
fn filter() -> Vec<libc::sock_filter> {
    let Some(architecture) = ARCHITECTURE else { return Vec::new() };
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let answer = |action| statement(libc::BPF_RET | libc::BPF_K, action);
    let equal = |value, if_true, if_false| jump(libc::BPF_JEQ, value, if_true, if_false);
    // A foreign architecture's calls have other numbers: none of them exists here.
    let mut program =
        vec![load(ARCHITECTURE_OFFSET), equal(architecture, 1, 0), answer(ABSENT), load(NUMBER_OFFSET)];
    program.extend([jump(libc::BPF_JGE, X32_START, 0, 1), answer(ABSENT)]);
    for number in DENIED {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        program.extend([equal(number, 0, 1), answer(DENY)]);
    }
    // `prlimit` on oneself (pid 0) is what `ulimit` is made of; on another process it would reach the server.
    let prlimit = u32::try_from(libc::SYS_prlimit64).unwrap_or(u32::MAX);
    program.extend([equal(prlimit, 0, 3), load(FIRST_ARGUMENT_OFFSET), equal(0, 1, 0), answer(DENY)]);
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

fn statement(code: u32, value: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or(0), jt: 0, jf: 0, k: value }
}

fn jump(test: u32, value: u32, if_true: u8, if_false: u8) -> libc::sock_filter {
    let code = u16::try_from(libc::BPF_JMP | test | libc::BPF_K).unwrap_or(0);
    libc::sock_filter { code, jt: if_true, jf: if_false, k: value }
}

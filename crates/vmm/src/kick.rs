//! Gets a vCPU out of the guest, wherever its thread is.

use crate::error::{Error, KvmContext, SystemContext};
use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Makes `KVM_RUN` of one vCPU return, now or when it is next called.
///
/// It first sets `immediate_exit`, which makes the next `KVM_RUN` return at
/// once, then sends a signal, which interrupts one that is under way
/// (`Documentation/virt/kvm/api.rst`, 5 "The kvm_run structure"). In this
/// order there is no moment at which a kick is lost.
#[derive(Clone, Debug)]
pub(crate) struct Kick(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    page: *mut c_void,
    /// The thread that runs the vCPU; 0 while there is none.
    thread: AtomicI32,
}

// SAFETY: `page` is a mapping that lives as long as the value and is only
// accessed through an atomic.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

const PAGE: usize = 4096;

extern "C" fn interrupted(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    // Being delivered is all the signal is for.
}

fn signal() -> libc::c_int {
    SIGRTMIN()
}

impl Kick {
    /// A way to kick `vcpu`.
    pub(crate) fn new(vcpu: &VcpuFd) -> Result<Self, Error> {
        register_signal_handler(signal(), interrupted)
            .asking("registering the signal that interrupts vCPUs")?;
        // SAFETY: the descriptor is open for as long as `vcpu` is borrowed, and
        // the mapping keeps the file by itself afterwards. A new mapping at an
        // address of the kernel's choice overlays nothing. Its first page is
        // the vCPU's `kvm_run`, shared with the mapping that `vcpu` has.
        let page = unsafe {
            mmap(
                std::ptr::null_mut(),
                PAGE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                BorrowedFd::borrow_raw(vcpu.as_raw_fd()),
                0,
            )
        }
        .doing("mapping a vCPU's run page")?;
        Ok(Self(Arc::new(Inner {
            page,
            thread: AtomicI32::new(0),
        })))
    }

    /// The calling thread is the one that runs the vCPU, until the value
    /// returned is dropped.
    pub(crate) fn enter(&self) -> Entered {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.0.thread.store(thread, Ordering::SeqCst);
        Entered(self.clone())
    }

    /// Gets the vCPU out of the guest, and keeps it out.
    pub(crate) fn kick(&self) {
        self.immediate_exit().store(1, Ordering::SeqCst);
        let thread = self.0.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: a system call without memory. If the thread is gone it
            // fails, which is as good: it is not in the guest then. (`Entered`
            // clears the number before its thread ends, so that a later thread
            // with the same number gets no signal; were one to get it, the
            // handler does nothing.)
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the field lies in the mapped page and is a byte, so it is
        // aligned. KVM reads it; this process writes it only here (`vcpu` has a
        // setter that this crate does not use).
        unsafe {
            let field = self
                .0
                .page
                .cast::<u8>()
                .add(offset_of!(kvm_run, immediate_exit));
            AtomicU8::from_ptr(field)
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: mapped by `Kick::new` with this length, and no reference into
        // it is left. Failure would leave the mapping, which harms nothing.
        let _ = unsafe { munmap(self.page, PAGE) };
    }
}

/// While it lives, the thread that made it can be kicked.
#[derive(Debug)]
pub(crate) struct Entered(Kick);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.thread.store(0, Ordering::SeqCst);
    }
}

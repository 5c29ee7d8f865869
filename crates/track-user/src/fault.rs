//! The signal handler behind [`crate::Mprotect`].
//!
//! A table of watched ranges with a fixed number of places, reached without a
//! lock, because a handler may interrupt any instruction of any thread. What
//! the handler does is limited to atomics and one `mprotect`, which is a bare
//! system call; `errno` is kept.

use afterimage_delta::PAGE_SIZE;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

/// How many areas one process can track at once; the handler looks at each.
const MAX_WATCHED: usize = 64;

static WATCHED: [AtomicPtr<Watched>; MAX_WATCHED] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_WATCHED];

/// What was installed before us, to be called for faults that are not ours.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// A range of pages and which of them were written.
#[derive(Debug)]
pub(crate) struct Watched {
    base: usize,
    len: usize,
    dirty: Vec<AtomicU64>,
    /// The kernel refused to open a single page (too many mappings), so the
    /// whole range was opened and counts as written.
    all: AtomicBool,
    faults: AtomicU64,
}

impl Watched {
    pub(crate) fn new(base: *mut u8, len: usize) -> Self {
        let words = (len / PAGE_SIZE).div_ceil(64);
        Self {
            base: base.expose_provenance(),
            len,
            dirty: (0..words).map(|_| AtomicU64::new(0)).collect(),
            all: AtomicBool::new(false),
            faults: AtomicU64::new(0),
        }
    }

    /// Takes the marks; `None` stands for every page.
    pub(crate) fn take(&self) -> Option<Vec<u64>> {
        let words = self
            .dirty
            .iter()
            .map(|w| w.swap(0, Ordering::AcqRel))
            .collect();
        (!self.all.swap(false, Ordering::AcqRel)).then_some(words)
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    fn mark(&self, page: usize) {
        self.dirty[page / 64].fetch_or(1 << (page % 64), Ordering::AcqRel);
    }

    /// Lets the write at `address` through; `false` if that failed.
    fn open(&self, address: usize) -> bool {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let page = (address - self.base) / PAGE_SIZE;
        let start = self.base + page * PAGE_SIZE;
        // Marked before and after: a harvest that runs in between takes the
        // first mark away and closes the page, which this then opens again, so
        // that the second mark is the one that counts.
        self.mark(page);
        if open_range(start, PAGE_SIZE) {
            self.mark(page);
            return true;
        }
        self.all.store(true, Ordering::Release);
        let opened = open_range(self.base, self.len);
        self.all.store(true, Ordering::Release);
        opened
    }
}

fn open_range(start: usize, len: usize) -> bool {
    let start = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the range lies in a watched region, which stays mapped while it
    // is in the table; giving write access back is what its owner expects.
    unsafe { libc::mprotect(start, len, libc::PROT_READ | libc::PROT_WRITE) == 0 }
}

/// A place in the table; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    place: usize,
    watched: *mut Watched,
}

// SAFETY: the pointee holds atomics and plain numbers, all of it Send and Sync.
unsafe impl Send for Watch {}

impl Watch {
    /// Puts a range into the table and makes sure that the handler is there.
    pub(crate) fn new(watched: Watched) -> io::Result<Self> {
        install()?;
        let watched = Box::into_raw(Box::new(watched));
        for (place, entry) in WATCHED.iter().enumerate() {
            let null = std::ptr::null_mut();
            let taken = entry.compare_exchange(null, watched, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                return Ok(Self { place, watched });
            }
        }
        // SAFETY: made by `into_raw` above and not in the table.
        drop(unsafe { Box::from_raw(watched) });
        Err(io::Error::other(format!(
            "more than {MAX_WATCHED} areas are tracked in this process"
        )))
    }

    pub(crate) fn watched(&self) -> &Watched {
        // SAFETY: allocated in `new`, freed nowhere (see `drop`).
        unsafe { &*self.watched }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The record itself stays allocated: a handler on another thread may
        // be looking at it just now, and there is no moment at which that is
        // known to have ended. It costs one bit a page, once for each area
        // that is closed.
        WATCHED[self.place].store(std::ptr::null_mut(), Ordering::Release);
    }
}

fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            // SAFETY: zeroed is a valid sigaction (no handler, empty mask).
            let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: a query writes the present action to `old`.
            if unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), &raw mut old) } != 0 {
                return Err(errno());
            }
            let _ = PREVIOUS.set(old);
            // SAFETY: as above; then filled with a handler of the signature
            // that SA_SIGINFO asks for.
            let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
            new.sa_sigaction = on_fault as *const () as usize;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            // SAFETY: `new` is complete; the handler is async-signal-safe.
            if unsafe { libc::sigaction(libc::SIGSEGV, &raw const new, std::ptr::null_mut()) } != 0
            {
                return Err(errno());
            }
            Ok(())
        })
        .map_err(io::Error::from_raw_os_error)
}

fn errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EINVAL)
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno is a thread-local integer; libc gives its address.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() }.addr();
    // SAFETY: and a valid ucontext of the interrupted thread.
    let error_code =
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize] };
    // Bit 1 of the page fault error code: the access was a write (Intel SDM
    // volume 3A, 4.7).
    let is_write = error_code & 2 != 0;
    // SAFETY: as for the address.
    let from_kernel = unsafe { (*info).si_code } > 0;
    if !(from_kernel && is_write && handle(address)) {
        pass_on(signal, info, context);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn handle(address: usize) -> bool {
    for entry in &WATCHED {
        let watched = entry.load(Ordering::Acquire);
        // SAFETY: entries are null or point to records that are never freed.
        let Some(watched) = (unsafe { watched.as_ref() }) else {
            continue;
        };
        if (watched.base..watched.base + watched.len).contains(&address) {
            return watched.open(address);
        }
    }
    false
}

/// A fault that is not ours goes to whoever was there before, as if we were
/// not.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS
        .get()
        .filter(|p| p.sa_sigaction != libc::SIG_DFL && p.sa_sigaction != libc::SIG_IGN);
    let Some(previous) = previous else {
        // SAFETY: with the default action back in place, returning repeats the
        // faulting instruction, which then ends the process as usual.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    if previous.sa_flags & libc::SA_SIGINFO != 0 {
        type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: the flag says that this is the handler's signature.
        let handler: Handler = unsafe { std::mem::transmute(previous.sa_sigaction) };
        handler(signal, info, context);
    } else {
        // SAFETY: without the flag the handler takes the signal alone.
        let handler: extern "C" fn(i32) = unsafe { std::mem::transmute(previous.sa_sigaction) };
        handler(signal);
    }
}

//! The tracker `kvm-log`.

use afterimage_checkpoint::{Tracker, TrackerError};
use afterimage_delta::PageSet;
use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVMIO,
    kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use std::io;
use std::sync::Arc;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iowr_nr;

ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

/// Tracks by KVM's dirty log on one memory slot.
///
/// A harvest reads the log, then clears exactly the bits that it read. With
/// manual protection (`KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`) reading changes
/// nothing, so a failure between the two loses nothing; and KVM write-protects
/// the pages of the cleared bits and flushes the TLBs of all vCPUs before the
/// clearing call returns (`kvm_clear_dirty_log_protect` in the kernel's
/// `virt/kvm/kvm_main.c`), so a store that comes later faults and is logged
/// anew. Only then does the caller copy pages.
///
/// On Intel with PML the processor logs by itself and no store faults.
#[derive(Debug)]
pub struct KvmLog {
    vm: Arc<VmFd>,
    slot: u32,
    pages: u32,
    /// Pages of failed epochs.
    returned: PageSet,
    ioctls: u64,
}

/// Manual protection cannot be switched on.
#[derive(Debug, thiserror::Error)]
#[error(
    "KVM cannot hand out its dirty log without clearing it (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2): a Linux of 5.1 or later is needed"
)]
pub struct EnableError(#[source] pub kvm_ioctls::Error);

/// Switches manual protection on for a whole VM, before any slot of it is
/// tracked.
///
/// "Initially all set" is left off: KVM would report every page of a slot once,
/// and the first commit would compare the whole area for nothing.
///
/// # Errors
/// [`EnableError`].
pub fn enable_manual_protect(vm: &VmFd) -> Result<(), EnableError> {
    let cap = kvm_enable_cap {
        cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        args: [u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE), 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&cap).map_err(EnableError)
}

impl KvmLog {
    /// The name in settings, logs and status.
    pub const NAME: &'static str = "kvm-log";

    /// Tracks slot `slot` of `vm`, which has `pages` pages and dirty logging;
    /// [`enable_manual_protect`] was called before.
    #[must_use]
    pub fn new(vm: Arc<VmFd>, slot: u32, pages: u32) -> Self {
        Self {
            vm,
            slot,
            pages,
            returned: PageSet::new(pages),
            ioctls: 0,
        }
    }

    /// System calls made for tracking.
    #[must_use]
    pub fn ioctls(&self) -> u64 {
        self.ioctls
    }

    fn error(action: &'static str) -> impl Fn(io::Error) -> TrackerError {
        move |source| TrackerError {
            tracker: Self::NAME,
            action,
            source,
        }
    }

    fn read(&mut self) -> io::Result<PageSet> {
        let bytes = self.pages as usize * afterimage_delta::PAGE_SIZE;
        self.ioctls += 1;
        let words = self
            .vm
            .get_dirty_log(self.slot, bytes)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        Ok(PageSet::from_words(words, self.pages))
    }

    /// Clears the log's bits of these pages and no other, in one call: from the
    /// first to the last word of the bitmap in which there is one.
    fn clear(&mut self, pages: &PageSet) -> io::Result<()> {
        let words = pages.words();
        let Some(first) = words.iter().position(|w| *w != 0) else {
            return Ok(());
        };
        let last = words.iter().rposition(|w| *w != 0).unwrap_or(first);
        let range = first as u64 * 64;
        // KVM takes multiples of 64 pages, but for a range that ends with the
        // slot.
        let num_pages = ((last - first + 1) as u64 * 64).min(u64::from(self.pages) - range);
        let request = kvm_clear_dirty_log {
            slot: self.slot,
            num_pages: u32::try_from(num_pages).unwrap_or(u32::MAX),
            first_page: range,
            __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
                dirty_bitmap: words[first..=last].as_ptr().cast_mut().cast(),
            },
        };
        self.ioctls += 1;
        // SAFETY: the request is the structure this ioctl takes. KVM only reads
        // the bitmap, `num_pages` bits of it, rounded up to whole words: those
        // are the words `first..=last`, borrowed until the call returns.
        let result = unsafe { ioctl_with_ref(&*self.vm, KVM_CLEAR_DIRTY_LOG(), &request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl Tracker for KvmLog {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn harvest(&mut self) -> Result<PageSet, TrackerError> {
        let mut pages = self.read().map_err(Self::error("reading the dirty log"))?;
        self.clear(&pages)
            .map_err(Self::error("clearing the dirty log"))?;
        pages.union_with(&self.returned);
        self.returned.clear();
        Ok(pages)
    }

    fn give_back(&mut self, pages: &PageSet) {
        self.returned.union_with(pages);
    }
}

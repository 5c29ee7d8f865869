//! What a process or a VMM brings: memory, and knowledge of what was written.

use afterimage_delta::{Page, PageIndex, PageSet};

/// The live bytes of an area, which the application may be writing to.
pub trait AreaMemory {
    /// Number of pages.
    fn pages(&self) -> u32;

    /// Copies a page out.
    ///
    /// # Panics
    /// If the area has no such page.
    fn read_page(&self, index: PageIndex, into: &mut Page);

    /// Overwrites a page.
    ///
    /// # Panics
    /// If the area has no such page.
    fn write_page(&mut self, index: PageIndex, bytes: &Page);
}

/// Tells which pages were written.
///
/// The invariant that every implementation keeps, and that [`crate::contract`]
/// checks: a page that was written since it was last harvested is in the next
/// harvest. A page may be reported without need; a missed page is data loss.
pub trait Tracker {
    /// The name in settings, logs and status.
    fn name(&self) -> &'static str;

    /// Takes the pages written since the last harvest.
    ///
    /// When it returns, every later write to any page will be noticed; so the
    /// caller reads page contents only afterwards. The pages belong to the
    /// caller from then on.
    ///
    /// # Errors
    /// [`TrackerError`]; then no page was taken, or the area must not be
    /// committed again.
    fn harvest(&mut self) -> Result<PageSet, TrackerError>;

    /// Takes pages back whose epoch failed: they are in the next harvest.
    fn give_back(&mut self, pages: &PageSet);
}

/// A tracker can no longer say what was written.
#[derive(Debug, thiserror::Error)]
#[error("tracker {tracker}: {action} failed; the area takes no more commits")]
pub struct TrackerError {
    /// The tracker's name.
    pub tracker: &'static str,
    /// What it was doing.
    pub action: &'static str,
    /// What the system said.
    pub source: std::io::Error,
}

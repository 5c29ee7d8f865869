//! What may live in an area.

use crate::AreaHeap;
use allocator_api2::boxed::Box as AreaBox;
use allocator_api2::vec::Vec as AreaVec;

/// Data that means the same in the next process that maps the area.
///
/// Implemented for plain numbers, arrays and options of such data, and for
/// `Vec` and `Box` whose allocator is [`AreaHeap`]. Make your own with
/// [`in_area!`](crate::in_area), which checks each field.
///
/// Not for `hashbrown::HashMap` with that allocator, though it works: a map
/// without capacity points to a static of the program, so it takes a type that
/// never lets it be without (`examples/afterimage-kv` has one).
///
/// # Safety
/// The type holds no reference or pointer to anything outside the area (no
/// statics, functions, vtables, file descriptors, thread handles), and its
/// layout does not depend on the run of the program.
#[diagnostic::on_unimplemented(
    message = "`{Self}` may not live in an area",
    note = "what points outside the area means nothing after a takeover; use `afterimage::allocator_api2` collections with `AreaHeap`, and `in_area!` for structs"
)]
pub unsafe trait InArea {}

/// The object from which everything in an area is reached.
pub trait Root: InArea + Sized + 'static {
    /// Name of the type: an area is opened only as the type it was made with.
    const NAME: &'static str;

    /// Version of the type's layout and meaning.
    const VERSION: u32 = 1;

    /// The root of a new area; `heap` is the area's allocator.
    fn init(heap: AreaHeap) -> Self;
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(
            // SAFETY: a plain value.
            unsafe impl InArea for $type {}
        )*
    };
}

plain!(
    u8,
    u16,
    u32,
    u64,
    u128,
    usize,
    i8,
    i16,
    i32,
    i64,
    i128,
    isize,
    f32,
    f64,
    bool,
    char,
    ()
);

// SAFETY: elements beside each other.
unsafe impl<T: InArea, const N: usize> InArea for [T; N] {}
// SAFETY: as an array; only ever behind a pointer into the area.
unsafe impl<T: InArea> InArea for [T] {}
// SAFETY: a value or none.
unsafe impl<T: InArea> InArea for Option<T> {}
// SAFETY: fields beside each other.
unsafe impl<A: InArea, B: InArea> InArea for (A, B) {}
// SAFETY: points to the heap's state, in the area at its fixed address.
unsafe impl InArea for AreaHeap {}
// SAFETY: the elements are in the area, which is always mapped at the same
// address; an empty vector holds a constant, not an address.
unsafe impl<T: InArea> InArea for AreaVec<T, AreaHeap> {}
// SAFETY: the value is in the area, which is always mapped at the same address.
unsafe impl<T: InArea + ?Sized> InArea for AreaBox<T, AreaHeap> {}
/// Makes a struct that may live in an area; each field is checked.
///
/// ```
/// afterimage::in_area! {
///     /// A point.
///     #[derive(Clone, Copy, Debug, Default)]
///     pub struct Point { pub x: i64, pub y: i64 }
/// }
/// ```
///
/// ```compile_fail
/// afterimage::in_area! {
///     struct Wrong { name: &'static str }
/// }
/// ```
#[macro_export]
macro_rules! in_area {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type,)*
        }

        // SAFETY: every field may live in an area, as checked below, and
        // `repr(C)` fixes where each is.
        unsafe impl $crate::InArea for $name {}

        const _: () = {
            $($crate::require_in_area::<$type>();)*
        };
    };
}

/// Compiles only for types that may live in an area.
#[doc(hidden)]
pub const fn require_in_area<T: InArea + ?Sized>() {}

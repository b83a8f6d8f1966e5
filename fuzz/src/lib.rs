//! What the targets share: a measure of work that is no clock, and what is slow on purpose.

pub mod gitignore;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Bytes asked for since the program began; what is given back is not taken off.
static ASKED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: all is done by the system's allocator; counting touches no memory of its callers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's duties are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.fetch_add(size, Ordering::Relaxed);
        // SAFETY: the caller's duties are the same.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Does something that must not copy its input over and over: for `length` bytes it may ask for `each` times as much
/// memory, and for `once` more. What copies in a loop is quadratic, and shows here whatever the machine's speed.
///
/// # Panics
/// It asked for more.
pub fn within<T>(length: usize, each: usize, once: usize, act: impl FnOnce() -> T) -> T {
    let before = ASKED.load(Ordering::Relaxed);
    let result = act();
    let asked = ASKED.load(Ordering::Relaxed) - before;
    assert!(asked <= length * each + once, "{asked} bytes asked for, for {length} bytes of input");
    result
}

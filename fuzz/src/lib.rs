//! Shared by the targets: a way to measure work without a clock, and reference code that is slow on purpose.

pub mod gitignore;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Bytes allocated since the program started. Freed bytes still count.
static ASKED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: the system's allocator does all the work; counting touches no memory of the callers.
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

/// Runs a function that must not copy its input repeatedly: for `length` bytes of input, it may allocate `each` times
/// as much memory plus `once`. Code that copies in a loop is quadratic and fails here, on a machine of any speed.
///
/// # Panics
/// If it allocated more.
pub fn within<T>(length: usize, each: usize, once: usize, act: impl FnOnce() -> T) -> T {
    let before = ASKED.load(Ordering::Relaxed);
    let result = act();
    let asked = ASKED.load(Ordering::Relaxed) - before;
    assert!(asked <= length * each + once, "{asked} bytes allocated for {length} bytes of input");
    result
}

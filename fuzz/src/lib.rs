//! Shared by the targets: a measure of work that needs no clock, and reference code that is slow on purpose.

pub mod gitignore;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Bytes allocated since the program started. Freed bytes still count.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: the system's allocator does all the work; counting touches no memory of the callers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's duties are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size, Ordering::Relaxed);
        // SAFETY: the caller's duties are the same.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs a function that must not copy its input repeatedly: for `length` bytes it may allocate `each` times as much memory,
/// and `once` more. Code that copies in a loop is quadratic, and fails here whatever the speed of the machine.
///
/// # Panics
/// If it allocated more.
pub fn within<T>(length: usize, each: usize, once: usize, act: impl FnOnce() -> T) -> T {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let result = act();
    let allocated = ALLOCATED.load(Ordering::Relaxed) - before;
    assert!(allocated <= length * each + once, "{allocated} bytes allocated for {length} bytes of input");
    result
}

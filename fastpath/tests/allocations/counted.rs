//! The allocator of the C library, which Rust's uses as well, with a counter in front.
#![allow(unsafe_code, reason = "the functions of the C library have no safe signature")]

use std::{
    cell::Cell,
    ffi::{c_char, c_int, c_void},
    sync::atomic::{AtomicU64, Ordering},
};

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
}

/// What the threads of workers are called.
const WORKER: &[u8] = b"postern-esp-";

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread is a worker; `None` before it was looked at.
    static IS_WORKER: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Allocations of all workers so far.
pub(crate) fn allocations() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Threads have their name before they run anything of ours; the control thread's goes on with
/// letters, those of workers with their number.
fn look() -> bool {
    let mut name: [c_char; 16] = [0; 16];
    // SAFETY: the kernel writes at most 16 octets, the room there is.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let name = name.map(|octet| octet as u8);
    name.starts_with(WORKER) && name.get(WORKER.len()).is_some_and(u8::is_ascii_digit)
}

fn count() {
    // A thread is called as its maker until it gives itself its name: only "yes" is final.
    let worker = IS_WORKER.get().unwrap_or_else(look);
    if worker {
        IS_WORKER.set(Some(true));
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY of all: each has the signature of the function it stands for, and does what that does
// by calling it under its other name. Memory is freed by the `free` of the C library.

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: see above.
    unsafe { __libc_malloc(size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(number: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: see above.
    unsafe { __libc_calloc(number, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: see above.
    unsafe { __libc_realloc(old, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: see above.
    unsafe { __libc_memalign(align, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(to: *mut *mut c_void, align: usize, size: usize) -> c_int {
    count();
    // SAFETY: see above; the caller lends `to` for the answer.
    unsafe {
        let memory = __libc_memalign(align, size);
        if memory.is_null() {
            return 12;
        }
        to.write(memory);
    }
    0
}

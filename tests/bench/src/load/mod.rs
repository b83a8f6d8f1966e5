//! The load: pods as a scheduler and a kubelet run them, without containers.

pub mod kubelet;
mod played;
mod pod;
pub mod state;
#[cfg(test)]
mod tests;

pub use pod::{Event, Pod, list, watch_path};

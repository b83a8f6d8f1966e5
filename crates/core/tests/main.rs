//! The rules, tested as one program: it links once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod arbitrary;
mod completion;
mod events;
mod facts;
mod generated;
mod injected;
mod lifecycle;
mod loops;
mod lost;
mod message;
mod obstacles;
mod order;
mod outcome;
mod pod;
mod properties;
mod reports;
mod runner;
mod schema;
mod served;
mod stopped;
mod support;
mod sync_memory;
mod sync_orphans;
mod sync_pods;
mod sync_pvc;
mod sync_status;
mod uninstall;
mod versions;
mod waiting;

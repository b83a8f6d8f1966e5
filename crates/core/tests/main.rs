//! The tests of the rules, as one program that is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod arbitrary;
mod completion;
mod conditions;
mod configuration;
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
mod provider;
mod reports;
mod runner;
mod schema;
mod served;
mod stopped;
mod support;
mod suspend;
mod sync_cleanup;
mod sync_create;
mod sync_memory;
mod sync_orphans;
mod sync_pvc;
mod sync_start;
mod sync_status;
mod uninstall;
mod versions;
mod waiting;

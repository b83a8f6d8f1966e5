//! Tests with an operator of their own, which they disturb or configure differently. The shared one is scaled to zero
//! meanwhile.

mod disturbed;
mod injection;
mod rendered;
mod settings;

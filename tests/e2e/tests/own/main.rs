//! Tests with an operator of their own, which they disturb or set up otherwise. The shared one rests meanwhile.

mod codex;
mod disturbed;
mod injection;
mod rendered;
mod settings;

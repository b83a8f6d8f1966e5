//! The output of agents, as text for people.

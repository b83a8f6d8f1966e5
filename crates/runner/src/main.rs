//! `agentloop-runner`: see the library's documentation.

fn main() {
    std::process::exit(agentloop_runner::cli::main(std::env::args_os()));
}

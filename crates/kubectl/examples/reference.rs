//! Prints the reference page.

fn main() {
    print!("{}", kubectl_agentloop::reference::markdown());
}

//! Which clusters are reached without the proxy of the environment.
//!
//! kube 5.0 compares `NO_PROXY` with the address of the proxy; kubectl compares it with that of the cluster.

use std::net::IpAddr;

/// Whether `NO_PROXY` has this host, by the rules of kubectl: `*`, addresses, CIDR ranges, and domains with all that is
/// below them. This machine is never reached through a proxy.
pub fn is_bypassed(host: &str, port: u16, no_proxy: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    let entries = no_proxy.split(',').map(|entry| entry.trim().to_lowercase());
    entries.filter(|entry| !entry.is_empty()).any(|entry| match address {
        _ if entry == "*" => true,
        Some(address) => is_within(address, &entry) || entry == format!("{host}:{port}"),
        None => is_below(&host, port, &entry),
    })
}

/// Whether an address is the entry's, or in its range.
fn is_within(address: IpAddr, entry: &str) -> bool {
    let (start, bits) = entry.split_once('/').unwrap_or((entry, ""));
    let Ok(start) = start.trim_matches(['[', ']']).parse::<IpAddr>() else { return false };
    // Both in 128 bits, with what differs at the end of the number.
    let (one, other, width) = match (address, start) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            (u128::from(one.to_bits()), u128::from(other.to_bits()), 32_u32)
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 128),
        _ => return false,
    };
    let bits = if bits.is_empty() { Some(width) } else { bits.parse().ok().filter(|bits| *bits <= width) };
    let Some(bits) = bits else { return false };
    let free = width.saturating_sub(bits);
    // No shift can remove all 128 bits.
    one == other || (one ^ other).checked_shr(free).unwrap_or(0) == 0
}

/// Whether a name is the entry's domain, or below it. `.example` is only what is below.
fn is_below(host: &str, port: u16, entry: &str) -> bool {
    let name = match entry.rsplit_once(':') {
        Some((name, own)) if own.parse() == Ok(port) => name,
        Some(_) => return false,
        None => entry,
    };
    let name = name.strip_prefix('*').unwrap_or(name);
    let (domain, itself) = name.strip_prefix('.').map_or((name, true), |below| (below, false));
    let below = host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    !domain.is_empty() && (below || (itself && host == domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_in_no_proxy_is_reached_without_the_proxy() {
        for (host, no_proxy) in [
            ("localhost", ""),
            ("127.0.0.1", ""),
            ("[::1]", ""),
            ("api.example.com", "*"),
            ("api.example.com", "other, example.com"),
            ("api.example.com", ".example.com"),
            ("api.example.com", "*.example.com"),
            ("API.example.com.", "api.example.com:6443"),
            ("10.1.2.3", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3", "10.1.2.3:6443"),
            ("10.1.2.3", "0.0.0.0/0"),
            ("fd00::1", "fd00::/8"),
            ("fd00::1", "::/0"),
        ] {
            assert!(is_bypassed(host, 6443, no_proxy), "{host} {no_proxy}");
        }
    }

    #[test]
    fn any_other_cluster_is_reached_through_the_proxy() {
        for (host, no_proxy) in [
            ("api.example.com", ""),
            ("api.example.com", " , "),
            ("api.example.com", "ample.com"),
            ("api.example.com", "api.example.com:443"),
            ("example.com", ".example.com"),
            ("11.1.2.3", "10.0.0.0/8"),
            ("10.1.2.3", "10.0.0.0/99"),
            ("10.1.2.3", "fd00::/8"),
            ("fe00::1", "fd00::/8"),
        ] {
            assert!(!is_bypassed(host, 6443, no_proxy), "{host} {no_proxy}");
        }
    }
}

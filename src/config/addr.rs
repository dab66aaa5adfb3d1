//! Checks addresses as far as that is possible without the network. Resolves no name.

use std::net::{IpAddr, SocketAddr};

/// The purpose of an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Listen,
    Dial,
}

pub(super) const ADDR_EXPECTED: &str = "an address \"host:port\" such as \"127.0.0.1:7001\", \"[::1]:7001\" or \"node1.example:7001\"";

/// Splits an address into host and port, in a form that can be compared. The error is what was
/// expected.
pub(super) fn parse_addr(addr: &str, purpose: Use) -> Result<(String, u16), &'static str> {
    let (host, port) = addr.rsplit_once(':').ok_or(ADDR_EXPECTED)?;
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ADDR_EXPECTED);
    }
    let port: u16 = port.parse().map_err(|_| "a port from 0 to 65535")?;
    let ip = if host.starts_with('[') {
        let ip = addr.parse::<SocketAddr>().map_err(|_| "an IPv6 address in brackets such as \"[::1]:7001\"")?.ip();
        Some(ip)
    } else if !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        Some(host.parse::<IpAddr>().map_err(|_| "an IPv4 address of four numbers from 0 to 255, and a port, such as \"127.0.0.1:7001\"")?)
    } else {
        None
    };
    let is_name = host.len() <= 253 && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if ip.is_none() && (host.is_empty() || !is_name) {
        return Err(ADDR_EXPECTED);
    }
    if purpose == Use::Dial && port == 0 {
        return Err("a port from 1 to 65535: nobody can be dialled at port 0");
    }
    if purpose == Use::Dial && ip.is_some_and(|ip| ip.is_unspecified()) {
        return Err("the address at which that peer is reached: this one means \"every interface\" and can only be listened on");
    }
    Ok((ip.map_or_else(|| host.to_ascii_lowercase(), |ip| ip.to_string()), port))
}

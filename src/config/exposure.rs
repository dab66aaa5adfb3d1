//! Refuses a configuration by which others than this machine could reach a port at which anybody is
//! believed.
//!
//! Looks at the addresses as they are written. A name other than `localhost` may be that of any
//! interface.

use std::net::IpAddr;

use super::addr::{Use, parse_addr};
use super::fields::Config;
use super::peer_auth::PeerAuth;
use super::refusal::{ConfigRefusal, quoted};
use super::tls::{ClientCerts, ClientTls, PeerTls};

/// Refuses what is exposed, unless that is wanted. A node without peers believes none.
pub(super) fn check(config: &Config) -> Result<(), ConfigRefusal> {
    if config.is_insecure {
        return Ok(());
    }
    let has_certs = config.tls.as_ref().is_some_and(|tls| (tls.clients, tls.client_certs) == (ClientTls::Required, ClientCerts::Required));
    if is_exposed(&config.client_addr) && config.users.is_empty() && !has_certs {
        let expected = "an address of this machine alone such as \"127.0.0.1:7001\", or users beside it, who say who they are; \
                        or tls with clients and client_certs \"required\"; or \"insecure\": true, if whoever reaches that port may read, write and delete everything";
        return Err(ConfigRefusal::new("client_addr", quoted(&config.client_addr), expected));
    }
    let has_tls = config.tls.as_ref().is_some_and(|tls| tls.peers != PeerTls::Off);
    if is_exposed(&config.peer_addr) && !config.peers.is_empty() && config.peer_auth == PeerAuth::Off && !has_tls {
        let expected = "an address of this machine alone such as \"127.0.0.1:7101\", or a peer_secret_file beside it or tls.peers, by which peers prove who they are; \
                        or \"insecure\": true, if whoever reaches that port may write and delete everything";
        return Err(ConfigRefusal::new("peer_addr", quoted(&config.peer_addr), expected));
    }
    Ok(())
}

/// Returns true if other machines may reach an address that is listened on.
fn is_exposed(addr: &str) -> bool {
    // Checked before, so that what cannot be read here is none.
    let Ok((host, _)) = parse_addr(addr, Use::Listen) else { return true };
    host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

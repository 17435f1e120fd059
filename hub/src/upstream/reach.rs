//! Which addresses may be connected to.

use std::net::IpAddr;

/// Which addresses may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All.
    Any,
    /// None that lead into this machine or its network; route target `untrusted`.
    PublicOnly,
}

impl Reach {
    /// Whether an address may be connected to.
    pub(super) fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::PublicOnly => !is_private(address.to_canonical()),
        }
    }
}

/// Whether an address that is not IPv4-mapped leads into this machine or its network.
fn is_private(address: IpAddr) -> bool {
    // A connection to the unspecified address ends up on this machine.
    address.is_unspecified()
        || address.is_loopback()
        || match address {
            IpAddr::V4(address) => address.is_private() || address.is_link_local(),
            IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(addresses: &[&str], is_allowed: bool) {
        for text in addresses {
            let address = text.parse().unwrap();
            assert_eq!(Reach::PublicOnly.allows(address), is_allowed, "{text}");
            assert!(Reach::Any.allows(address), "{text}");
        }
    }

    #[test]
    fn private_addresses_are_out_of_reach() {
        check(&["127.0.0.1", "127.255.255.255", "0.0.0.0"], false);
        check(&["10.0.0.0", "10.255.255.255"], false);
        check(&["172.16.0.0", "172.31.255.255"], false);
        check(&["192.168.0.0", "192.168.255.255"], false);
        check(&["169.254.0.0", "169.254.169.254"], false);
        check(&["::1", "::"], false);
        check(&["fc00::", "fdff::1", "fe80::1", "febf::1"], false);
    }

    #[test]
    fn an_ipv4_address_in_ipv6_form_is_as_private_as_in_ipv4() {
        check(
            &["::ffff:127.0.0.1", "::ffff:10.1.2.3", "::ffff:0.0.0.0"],
            false,
        );
        check(&["::ffff:192.0.2.1"], true);
    }

    #[test]
    fn what_is_beside_private_addresses_is_in_reach() {
        check(&["126.255.255.255", "128.0.0.0"], true);
        check(&["9.255.255.255", "11.0.0.0"], true);
        check(&["172.15.255.255", "172.32.0.0"], true);
        check(&["192.167.255.255", "192.169.0.0"], true);
        check(&["169.253.255.255", "169.255.0.0"], true);
        check(
            &["::2", "fbff::1", "fe00::1", "fec0::1", "2001:db8::1"],
            true,
        );
    }
}

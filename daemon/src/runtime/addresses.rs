//! Watches the addresses of this machine and tells the gateway: a tunnel whose address is gone
//! must find another way.

use std::{io, net::IpAddr};

use gateway::command::{Command, Outcome};
use rtnetlink::{
    Handle as Netlink, MulticastGroup, new_multicast_connection,
    packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
};
use tokio_stream::StreamExt;

use super::handle::Handle;

/// Addresses on their way in or out can come in thousands; they are looked at this much later.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(100);

/// Watches from now on.
///
/// # Errors
/// The kernel gives no netlink socket.
pub fn watch(handle: Handle) -> io::Result<AddressWatch> {
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, netlink, mut changes) = new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    let (changed, notified) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while changes.next().await.is_some() {
            // One that waits is enough for any number of changes.
            let _ = changed.try_send(());
        }
    });
    Ok(AddressWatch { handle, netlink, notified, last: Vec::new() })
}

/// The watch; [`AddressWatch::tell`] once, then [`AddressWatch::run`].
pub struct AddressWatch {
    handle: Handle,
    netlink: Netlink,
    notified: tokio::sync::mpsc::Receiver<()>,
    last: Vec<IpAddr>,
}

impl AddressWatch {
    /// Tells the gateway the addresses if they changed.
    pub async fn tell(&mut self) {
        let addresses = match list(&self.netlink).await {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::warn!("the addresses of this machine cannot be listed: {error}");
                return;
            }
        };
        if addresses != self.last {
            let told = self.handle.act(Command::LocalAddresses(addresses.clone())).await;
            // What was given up is told again with the next change; a daemon that is stopping
            // needs to know no more.
            if matches!(told, Ok(Outcome::Done(_))) {
                self.last = addresses;
            }
        }
    }

    /// Tells every change until the netlink socket is gone.
    pub async fn run(mut self) {
        while self.notified.recv().await.is_some() {
            tokio::time::sleep(SETTLE).await;
            self.tell().await;
        }
    }
}

async fn list(netlink: &Netlink) -> Result<Vec<IpAddr>, rtnetlink::Error> {
    let mut messages = std::pin::pin!(netlink.address().get().execute());
    let mut addresses = Vec::new();
    while let Some(message) = messages.next().await {
        addresses.extend(usable(&message?));
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// The address, if packets can be sent from it now (RFC 4862 §5.4) and beyond one link.
fn usable(message: &AddressMessage) -> Option<IpAddr> {
    let not_yet = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    let optimistic = message.header.flags.contains(AddressHeaderFlags::Optimistic);
    if message.header.flags.intersects(not_yet) && !optimistic {
        return None;
    }
    let attribute = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    // On a point-to-point link `Address` is the other end.
    let address = attribute(true).or_else(|| attribute(false))?;
    let one_link = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    (!one_link).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_is_among_the_addresses() {
        let (handle, mut inbox) = super::super::handle::channel();
        let mut watch = watch(handle).unwrap();
        let telling = tokio::spawn(async move {
            watch.tell().await;
            watch
        });
        let Some(super::super::handle::Ask::Act(Command::LocalAddresses(all), reply)) =
            inbox.asks.recv().await
        else {
            panic!("nothing was told")
        };
        assert!(all.contains(&IpAddr::from([127, 0, 0, 1])), "{all:?}");
        reply.send(Outcome::Done(String::new())).unwrap();
        // The same addresses are not told again.
        let mut watch = telling.await.unwrap();
        watch.tell().await;
        assert!(inbox.asks.try_recv().is_err());
    }
}

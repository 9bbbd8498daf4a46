//! A third node with a tunnel of its own to B: what another peer does there must not reach it.

use std::sync::Arc;

use ike::{
    config::{Connection, Endpoints},
    input::{Command, Input},
    view::{ChildState, IkeSaView, IkeState},
    wire::Header,
};
use sa_store::{IdentityPattern, PairId, SecretBytes, TunnelId};

use crate::common::{B, Node, World, address, child, connection};

/// The tunnel between B and C.
const TUNNEL: TunnelId = TunnelId(2);
const C: usize = 2;

/// C is not in the [`World`]: its datagrams take no time and are never lost, so that looking
/// after it lets no time pass for the others.
pub(crate) struct Bystander {
    node: Node,
    /// How much of what B sent has been looked at.
    read: usize,
    before: Tunnel,
}

/// All that can be seen of the tunnel, at both ends.
#[derive(PartialEq, Eq, Debug)]
struct Tunnel {
    at_b: End,
    at_c: End,
    events: usize,
}

#[derive(PartialEq, Eq, Debug)]
struct End {
    /// Ids, SPIs, states, times.
    view: String,
    installed: bool,
    active: bool,
}

/// What one end is configured with.
fn configured(node: usize) -> Connection {
    let ends = ("b.example", "10.2.0.0/16");
    let far = ("c.example", "10.3.0.0/16");
    let (own, peer) = if node == B { (ends, far) } else { (far, ends) };
    Connection {
        tunnel: TUNNEL,
        name: "bystander".to_owned(),
        local_id: Some(own.0.parse().unwrap()),
        remote_id: IdentityPattern::Exact(peer.0.parse().unwrap()),
        auth: ike::config::AuthMethod::Psk(SecretBytes::from_slice(b"another shared secret")),
        children: vec![child(2, own.1, peer.1)],
        ..connection(node)
    }
}

fn path() -> Endpoints {
    Endpoints { local: "192.0.2.3:500".parse().unwrap(), remote: address(B) }
}

fn tunnel_of(node: &Node) -> IkeSaView {
    let views = node.endpoint.ike_sas();
    let mut views = views.into_iter().filter(|it| it.tunnel == Some(TUNNEL));
    let view = views.next().unwrap_or_else(|| panic!("{} has lost the bystander", node.name()));
    assert!(views.next().is_none());
    view
}

fn end(node: &Node) -> End {
    let view = tunnel_of(node);
    assert_eq!(view.state, IkeState::Established);
    let [it] = view.children.as_slice() else { panic!("one pair at {}: {view:#?}", node.name()) };
    assert_eq!(it.state, ChildState::Installed);
    let pair: PairId = it.pair;
    End {
        installed: node.pairs.contains_key(&pair),
        active: node.active.get(&it.child) == Some(&pair),
        view: format!("{view:?}"),
    }
}

impl Bystander {
    /// Brings its tunnel up.
    pub(crate) fn join(world: &mut World) -> Self {
        world.command(B, Command::Configure(Arc::new(configured(B))));
        // It draws what A of `World::new(1)` has drawn, its SPI of the IKE SA above all: B must tell
        // them apart by who they are.
        let mut node = Node::new(C, 0, ike::config::EndpointConfig::default());
        let mut command = |command| node.endpoint.handle(world.now, Input::Command(command));
        command(Command::Configure(Arc::new(configured(C))));
        command(Command::Initiate { tunnel: TUNNEL, path: path(), children: Vec::new() });
        let read = world.sent.len();
        let nothing = || End { view: String::new(), installed: false, active: false };
        let before = Tunnel { at_b: nothing(), at_c: nothing(), events: 0 };
        let mut this = Self { node, read, before };
        this.talk(world);
        this.before = this.tunnel(world);
        let Tunnel { at_b, at_c, .. } = &this.before;
        assert!([at_b, at_c].iter().all(|it| it.installed && it.active), "{at_b:?} {at_c:?}");
        this
    }

    fn tunnel(&self, world: &World) -> Tunnel {
        Tunnel { at_b: end(&world.nodes[B]), at_c: end(&self.node), events: self.node.events.len() }
    }

    /// Carries datagrams between B and C until neither says any more; gives C's and B's, as
    /// whether each is a response.
    fn talk(&mut self, world: &mut World) -> Vec<(usize, bool)> {
        let mut heard = Vec::new();
        let response = |datagram: &[u8]| Header::parse(datagram).unwrap().0.response;
        loop {
            let spoken = heard.len();
            for sent in self.node.drain(world.now) {
                heard.push((C, response(&sent.payload)));
                let path = Endpoints { local: address(B), remote: path().local };
                world.input(B, Input::Datagram { path, payload: &sent.payload });
            }
            let news = world.sent.split_off(self.read);
            for sent in news.iter().filter(|it| it.path.remote == path().local) {
                heard.push((B, response(&sent.payload)));
                let datagram = Input::Datagram { path: path(), payload: &sent.payload };
                self.node.endpoint.handle(world.now, datagram);
            }
            world.sent.extend(news);
            self.read = world.sent.len();
            if heard.len() == spoken {
                return heard;
            }
        }
    }

    /// The tunnel is as it was, and each end answers the other.
    #[track_caller]
    pub(crate) fn assert_unharmed(&mut self, world: &mut World) {
        assert!(self.talk(world).is_empty(), "B had something to say to the bystander");
        assert_eq!(self.tunnel(world), self.before);
        self.node
            .endpoint
            .handle(world.now, Input::Command(Command::CheckLiveness { tunnel: TUNNEL }));
        assert_eq!(self.talk(world), [(C, false), (B, true)]);
        world.command(B, Command::CheckLiveness { tunnel: TUNNEL });
        assert_eq!(self.talk(world), [(B, false), (C, true)]);
        assert_eq!(self.tunnel(world), self.before);
    }
}

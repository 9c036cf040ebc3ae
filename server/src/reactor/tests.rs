//! What every driver does, on real sockets: each test runs on epoll, on io_uring, on io_uring as older
//! kernels have it, and on a ring so small that it is always short of everything.

use super::epoll::Epoll;
use super::uring::{Uring, testing};
use super::waker::CoreWaker;
use super::*;
use socket2::SockRef;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

/// When a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

/// A driver, and what it has told.
struct Core {
    driver: Box<dyn Driver>,
    address: SocketAddr,
    waker: Arc<CoreWaker>,
    /// Accepted, and not adopted yet.
    accepted: Vec<OwnedFd>,
    received: BTreeMap<Token, Vec<u8>>,
    sent: BTreeMap<Token, Vec<Vec<u8>>>,
    ended: Vec<Token>,
    broken: Vec<Token>,
    woken: usize,
    /// Adopted and not closed; told of nothing else.
    alive: Vec<Token>,
    generation: u32,
}

impl Core {
    fn new(make: impl FnOnce(TcpListener, Arc<CoreWaker>) -> Box<dyn Driver>) -> Core {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        // The standard library's own backlog is too short for a thousand clients at once.
        rustix::net::listen(&listener, 2048).expect("it listens");
        let address = listener.local_addr().expect("it is bound");
        let waker = Arc::new(CoreWaker::new().expect("an eventfd"));
        let mut driver = make(listener, waker.clone());
        driver.accept(true).expect("accepting works");
        Core {
            driver,
            address,
            waker,
            accepted: Vec::new(),
            received: BTreeMap::new(),
            sent: BTreeMap::new(),
            ended: Vec::new(),
            broken: Vec::new(),
            woken: 0,
            alive: Vec::new(),
            generation: 0,
        }
    }

    /// One turn.
    fn turn(&mut self, timeout: Duration) {
        let Core { driver, accepted, received, sent, ended, broken, woken, alive, .. } = self;
        let known = |token| assert!(alive.contains(&token), "{token:?} is not open");
        let visit = &mut |completion: Completion<'_>| match completion {
            Completion::Accepted(socket) => accepted.push(socket),
            Completion::AcceptFailed(error) => panic!("accepting failed: {error}"),
            Completion::Received(token, bytes) => {
                known(token);
                assert!(!bytes.is_empty());
                received.entry(token).or_default().extend_from_slice(bytes);
            }
            Completion::Ended(token) => {
                known(token);
                ended.push(token);
            }
            Completion::Broken(token) => {
                known(token);
                broken.push(token);
            }
            Completion::Sent(token, buffer) => {
                known(token);
                sent.entry(token).or_default().push(buffer);
            }
            Completion::Woken => *woken += 1,
        };
        driver.poll(Some(timeout), visit).expect("the driver works");
    }

    /// Turns until something is so.
    fn until<T>(&mut self, what: &str, mut so: impl FnMut(&mut Core) -> Option<T>) -> T {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(result) = so(self) {
                return result;
            }
            assert!(Instant::now() < give_up, "waited in vain for {what}");
            self.turn(SHORT);
        }
    }

    /// Turns until nothing more happens: twice nothing within a while.
    fn settle(&mut self) {
        for _ in 0..5 {
            self.turn(SHORT);
        }
    }

    fn adopt(&mut self, slot: usize) -> Token {
        let socket = self.until("a client", |core| core.accepted.pop());
        let token = Token::new(slot, self.generation);
        self.generation += 1;
        self.driver.adopt(token, socket).expect("it is taken in");
        self.alive.push(token);
        token
    }

    /// A client, and its name.
    fn connect(&mut self, slot: usize) -> (TcpStream, Token) {
        let client = TcpStream::connect(self.address).expect("somebody listens");
        let token = self.adopt(slot);
        (client, token)
    }

    fn close(&mut self, token: Token) {
        self.driver.close(token);
        self.alive.retain(|other| *other != token);
    }

    fn until_received(&mut self, token: Token, bytes: usize) {
        self.until("bytes", |core| {
            (core.received.get(&token).map_or(0, Vec::len) >= bytes).then_some(())
        });
    }

    fn until_sent(&mut self, token: Token) -> Vec<u8> {
        self.until("the end of a send", |core| core.sent.get_mut(&token)?.pop())
    }

    fn until_broken(&mut self, token: Token) {
        self.until("the connection to break", |core| core.broken.contains(&token).then_some(()));
    }
}

/// Bytes that tell their place.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8 ^ (at >> 16) as u8).collect()
}

/// Closes a socket so that the peer is told rudely.
fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("an option");
}

fn conforms(test: fn(Core), ring: Option<Ring>) {
    match ring {
        Some(ring) => test(Core::new(|listener, waker| {
            Box::new(Uring::new(ring, listener, waker).expect("a driver"))
        })),
        None => eprintln!("skipped: io_uring is denied here"),
    }
}

use super::uring::Ring;

macro_rules! conformance {
    ($($test:ident)*) => {
        mod on_epoll {
            $(#[test] fn $test() {
                super::$test(super::Core::new(|listener, waker| {
                    Box::new(super::Epoll::new(listener, waker).expect("a driver"))
                }));
            })*
        }
        mod on_uring {
            $(#[test] fn $test() {
                super::conforms(super::$test, super::testing::usual());
            })*
        }
        mod on_a_cooperative_ring {
            $(#[test] fn $test() {
                super::conforms(super::$test, super::testing::cooperative());
            })*
        }
        mod on_a_tiny_ring {
            $(#[test] fn $test() {
                super::conforms(super::$test, super::testing::tiny());
            })*
        }
    };
}

conformance! {
    fragments_arrive_in_order
    a_huge_reply_is_sent_whole
    a_client_that_never_reads_holds_up_nobody
    a_half_closed_client_gets_its_replies
    a_reset_in_the_middle_of_a_reply_is_noticed
    a_reset_is_noticed_while_nothing_is_received
    a_reset_is_noticed_after_the_client_has_ended
    closing_while_a_send_is_in_flight_leaves_its_slot_to_others
    nothing_is_told_of_what_is_closed
    a_driver_is_dropped_with_everything_in_flight
    a_thousand_clients_are_served
    many_clients_that_send_much_are_served_whole
    wake_ups_are_not_lost
    accepting_pauses
    receiving_pauses
    pauses_in_quick_succession_lose_nothing
}

fn fragments_arrive_in_order(mut core: Core) {
    let (mut client, token) = core.connect(0);
    client.set_nodelay(true).expect("an option");
    let bytes = pattern(2000);
    for (at, byte) in bytes.iter().enumerate() {
        client.write_all(&[*byte]).expect("it is taken");
        if at % 7 == 0 {
            core.until_received(token, at + 1);
        }
    }
    core.until_received(token, bytes.len());
    assert_eq!(core.received[&token], bytes);
}

fn a_huge_reply_is_sent_whole(mut core: Core) {
    let (mut client, token) = core.connect(0);
    let bytes = pattern(48 << 20);
    let reader = std::thread::spawn(move || {
        let mut read = Vec::new();
        client.read_to_end(&mut read).expect("it is readable");
        read
    });
    core.driver.send(token, bytes.clone());
    assert_eq!(core.until_sent(token).len(), bytes.len());
    assert!(core.sent[&token].is_empty(), "told once");
    core.driver.send(token, b"and again".to_vec());
    core.until_sent(token);
    core.close(token);
    core.settle();
    let read = reader.join().expect("the reader");
    assert!(read[..bytes.len()] == bytes && &read[bytes.len()..] == b"and again");
}

fn a_client_that_never_reads_holds_up_nobody(mut core: Core) {
    let (mut idle, idle_token) = core.connect(0);
    let (mut busy, busy_token) = core.connect(1);
    let bytes = pattern(64 << 20);
    core.driver.send(idle_token, bytes.clone());
    for round in 1..=50 {
        busy.write_all(b"ping").expect("it is taken");
        core.until_received(busy_token, 4 * round);
        core.driver.send(busy_token, b"pong".to_vec());
        core.until_sent(busy_token);
        let mut reply = [0; 4];
        busy.read_exact(&mut reply).expect("a reply");
        assert_eq!(&reply, b"pong");
    }
    assert!(!core.sent.contains_key(&idle_token), "it cannot all have been taken");
    core.close(idle_token);
    // Freed bytes are used again.
    let noise: Vec<Vec<u8>> = (0..4).map(|_| vec![0xaa; 16 << 20]).collect();
    core.settle();
    drop(noise);
    let mut read = Vec::new();
    // What was taken comes, then the end, one way or the other.
    let _ = idle.read_to_end(&mut read);
    assert!(read.len() < bytes.len() && read[..] == bytes[..read.len()]);
}

fn a_half_closed_client_gets_its_replies(mut core: Core) {
    let (mut client, token) = core.connect(0);
    client.write_all(b"last words").expect("they are taken");
    client.shutdown(Shutdown::Write).expect("it is connected");
    core.until("the end", |core| core.ended.contains(&token).then_some(()));
    assert_eq!(core.received[&token], b"last words");
    for _ in 0..3 {
        core.driver.send(token, b"reply".to_vec());
        core.until_sent(token);
    }
    core.settle();
    assert_eq!((core.ended.len(), core.broken.len()), (1, 0));
    core.close(token);
    core.settle();
    let mut read = Vec::new();
    client.read_to_end(&mut read).expect("it is readable");
    assert_eq!(read, b"replyreplyreply");
}

fn a_reset_in_the_middle_of_a_reply_is_noticed(mut core: Core) {
    let (mut client, token) = core.connect(0);
    core.driver.send(token, pattern(64 << 20));
    core.turn(SHORT);
    client.read_exact(&mut [0; 10_000]).expect("the reply has begun");
    core.turn(SHORT);
    reset(client);
    core.until_broken(token);
    core.close(token);
    core.settle();
    assert!(!core.sent.contains_key(&token));
}

fn a_reset_is_noticed_while_nothing_is_received(mut core: Core) {
    let (client, token) = core.connect(0);
    core.driver.receive(token, false);
    core.settle();
    reset(client);
    core.until_broken(token);
    core.close(token);
}

fn a_reset_is_noticed_after_the_client_has_ended(mut core: Core) {
    let (client, token) = core.connect(0);
    client.shutdown(Shutdown::Write).expect("it is connected");
    core.until("the end", |core| core.ended.contains(&token).then_some(()));
    core.settle();
    assert!(core.broken.is_empty());
    reset(client);
    core.until_broken(token);
    core.close(token);
}

fn closing_while_a_send_is_in_flight_leaves_its_slot_to_others(mut core: Core) {
    for round in 0..20u8 {
        let (mut first, token) = core.connect(0);
        core.driver.send(token, pattern(16 << 20));
        if round % 2 == 0 {
            core.turn(Duration::ZERO);
        }
        first.write_all(b"too late").expect("it is taken");
        core.close(token);
        let (mut second, next) = core.connect(0);
        second.write_all(&[round; 10]).expect("it is taken");
        core.until_received(next, 10);
        assert_eq!(core.received[&next], [round; 10]);
        core.driver.send(next, vec![round; 5]);
        core.until_sent(next);
        let mut reply = [0; 5];
        second.read_exact(&mut reply).expect("a reply");
        assert_eq!(reply, [round; 5]);
        core.close(next);
    }
}

fn nothing_is_told_of_what_is_closed(mut core: Core) {
    for _ in 0..20 {
        let (mut client, token) = core.connect(0);
        core.driver.send(token, b"hello".to_vec());
        client.write_all(&pattern(100_000)).expect("it is taken");
        client.shutdown(Shutdown::Write).expect("it is connected");
        // `turn` looks whether what is told of is open.
        core.close(token);
        core.driver.receive(token, false);
        core.driver.receive(token, true);
        core.driver.send(token, b"late".to_vec());
        core.driver.close(token);
        core.turn(Duration::ZERO);
        core.turn(Duration::ZERO);
    }
    core.settle();
}

fn a_driver_is_dropped_with_everything_in_flight(mut core: Core) {
    let mut clients: Vec<(TcpStream, Token)> = (0..20).map(|slot| core.connect(slot)).collect();
    let bytes = pattern(8 << 20);
    for (_, token) in &clients {
        core.driver.send(*token, bytes.clone());
    }
    core.turn(Duration::ZERO);
    let (last, _) = clients.swap_remove(0);
    reset(last);
    drop(core);
    let _noise: Vec<Vec<u8>> = (0..20).map(|_| vec![0xaa; 8 << 20]).collect();
    for (mut client, _) in clients {
        let mut read = Vec::new();
        let _ = client.read_to_end(&mut read);
        assert!(read[..] == bytes[..read.len()]);
    }
}

/// Descriptors for clients and servers both.
fn many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the hard limit is allowed");
}

fn a_thousand_clients_are_served(mut core: Core) {
    many_descriptors();
    let mut clients: Vec<(TcpStream, Token)> = (0..1000).map(|slot| core.connect(slot)).collect();
    for round in 1..=3 {
        for (at, (client, _)) in clients.iter_mut().enumerate() {
            client.write_all(&(at as u64).to_be_bytes()).expect("it is taken");
        }
        for (at, (_, token)) in clients.iter().enumerate() {
            core.until_received(*token, 8 * round);
            assert_eq!(core.received[token][8 * (round - 1)..], (at as u64).to_be_bytes());
            core.driver.send(*token, core.received[token].clone());
        }
        for (at, (client, token)) in clients.iter_mut().enumerate() {
            core.until_sent(*token);
            let mut reply = vec![0; 8 * round];
            client.read_exact(&mut reply).expect("a reply");
            assert!(reply.chunks(8).all(|chunk| chunk == (at as u64).to_be_bytes()));
        }
    }
    for (_, token) in &clients {
        core.close(*token);
    }
    for (mut client, _) in clients {
        client.set_nonblocking(true).expect("an option");
        core.until("it to be closed", |_| matches!(client.read(&mut [0]), Ok(0)).then_some(()));
    }
}

fn many_clients_that_send_much_are_served_whole(mut core: Core) {
    let bytes = Arc::new(pattern(1 << 20));
    let clients: Vec<(TcpStream, Token)> = (0..32).map(|slot| core.connect(slot)).collect();
    let mut writers = Vec::new();
    let mut tokens = Vec::new();
    for (mut client, token) in clients {
        let bytes = bytes.clone();
        tokens.push(token);
        writers.push(std::thread::spawn(move || {
            client.write_all(&bytes).expect("it is taken");
            client
        }));
    }
    for token in &tokens {
        core.until_received(*token, bytes.len());
        assert!(core.received[token] == *bytes);
    }
    for writer in writers {
        drop(writer.join().expect("a writer"));
    }
    core.until("all ends", |core| (core.ended.len() == tokens.len()).then_some(()));
    assert!(core.broken.is_empty());
}

fn wake_ups_are_not_lost(mut core: Core) {
    const WAKES: usize = 2000;
    let waker = Waker::from(core.waker.clone());
    let (done, told) = std::sync::mpsc::sync_channel::<()>(0);
    let thread = std::thread::spawn(move || {
        for _ in 0..WAKES {
            waker.wake_by_ref();
            waker.wake_by_ref();
            told.recv().expect("the core goes on");
        }
    });
    for round in 1..=WAKES {
        core.until("a wake-up", |core| (core.woken > 0).then_some(()));
        assert!(core.woken <= 2, "round {round}: {} for two", core.woken);
        core.woken = 0;
        // The thread's second wake-up may have come after the first was noted.
        done.send(()).expect("the thread goes on");
        if round == WAKES {
            break;
        }
    }
    thread.join().expect("the thread");
}

fn accepting_pauses(mut core: Core) {
    for _ in 0..5 {
        core.driver.accept(false).expect("it pauses");
        core.settle();
        let client = TcpStream::connect(core.address).expect("the kernel takes it");
        core.settle();
        assert!(core.accepted.is_empty());
        core.driver.accept(true).expect("it goes on");
        core.until("the client", |core| core.accepted.pop());
        drop(client);
    }
    // Off and on before the kernel has heard of either.
    core.driver.accept(false).expect("it pauses");
    core.driver.accept(true).expect("it goes on");
    for slot in 0..3 {
        core.connect(slot);
    }
}

fn receiving_pauses(mut core: Core) {
    let (mut client, token) = core.connect(0);
    client.write_all(b"before").expect("it is taken");
    core.until_received(token, 6);
    core.driver.receive(token, false);
    core.settle();
    let bytes = pattern(64 << 20);
    client.set_nonblocking(true).expect("an option");
    let mut written = 0;
    loop {
        match client.write(&bytes[written..]) {
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        core.turn(Duration::ZERO);
    }
    assert!(written < bytes.len(), "the client feels it");
    core.settle();
    assert_eq!(core.received[&token], b"before", "nothing came after the pause was known");
    core.driver.receive(token, true);
    client.set_nonblocking(false).expect("an option");
    let rest = bytes[written..].to_vec();
    let writer = std::thread::spawn(move || client.write_all(&rest).map(|()| client));
    core.until_received(token, 6 + bytes.len());
    assert!(core.received[&token][6..] == bytes);
    drop(writer.join().expect("the writer"));
}

fn pauses_in_quick_succession_lose_nothing(mut core: Core) {
    let (mut client, token) = core.connect(0);
    let bytes = pattern(8 << 20);
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || client.write_all(&sent).map(|()| client));
    let mut round = 0u32;
    core.until("all of it", |core| {
        round += 1;
        core.driver.receive(token, false);
        if round.is_multiple_of(3) {
            core.driver.receive(token, true);
            core.driver.receive(token, false);
        }
        if round.is_multiple_of(2) {
            core.turn(Duration::ZERO);
        }
        core.driver.receive(token, true);
        (core.received.get(&token).map_or(0, Vec::len) == bytes.len()).then_some(())
    });
    assert!(core.received[&token] == bytes);
    drop(writer.join().expect("the writer"));
    core.until("the end", |core| core.ended.contains(&token).then_some(()));
}

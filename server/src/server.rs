//! Starts the cores on one database, and stops them.
//!
//! 1. The address is checked for another listener before the database is touched.
//! 2. The cores' sockets share the address through `SO_REUSEPORT`, but the first is bound without it:
//!    so another process that listens there, isolith or not, is noticed instead of being shared with.
//! 3. The database is closed after the last core has ended: every acknowledged reply has left, or its
//!    client was given up.

use crate::acceptors::{self, Door};
use crate::acl::Users;
use crate::admin;
use crate::backups::Backups;
use crate::config::{Pin, Serve, Sockets};
use crate::reactor::epoll::Epoll;
use crate::reactor::uring::{self, Ring, Uring};
use crate::reactor::waker::CoreWaker;
use crate::shared::Shared;
use crate::shutdown::{Event, Events};
use crate::tls::{Acceptor, Files};
use crate::worker::Worker;
use isolith::{Database, Durability};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Serves until a signal says otherwise. The error is a message for a human.
pub(crate) fn serve(options: &Serve) -> Result<(), String> {
    options.limits()?;
    let events = Events::new().map_err(|error| format!("cannot handle signals: {error}"))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.map_or(cores, usize::from);
    let users = Users::open(options.acl_file.as_deref(), options.requirepass.as_deref())?;
    let tls = open_tls(options)?;
    check_exposure(options, &users)?;
    let listeners = listen(options.listen, threads).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "cannot listen on {}: something else does already (another isolith, or Redis?); \
             choose another port with --listen",
            options.listen
        ),
        _ => format!("cannot listen on {}: {error}", options.listen),
    })?;
    let address = listeners
        .first()
        .map_or(Ok(options.listen), TcpListener::local_addr)
        .map_err(|error| format!("cannot listen on {}: {error}", options.listen))?;
    let unix = options.unix_socket.as_deref().map(listen_locally).transpose()?;
    let admin = options
        .admin
        .map(|address| {
            TcpListener::bind(address)
                .map_err(|error| format!("cannot listen on {address}: {error}"))
        })
        .transpose()?;
    raise_descriptor_limit();
    let rings = rings(options.driver, threads)?;

    let mut builder = Database::builder(&options.dir)
        .memory(options.memory)
        .durability(options.durability.into())
        .io(options.io.into())
        .retention(options.retention.0.unwrap_or_default())
        .log_retained(options.log_retained)
        .snapshot_age_max(options.snapshot_age_max.0.unwrap_or(Duration::MAX))
        // A core never waits: a command that finds no room is parked and tried again.
        .stall_timeout(Duration::ZERO);
    if let Some(threads) = options.background_threads {
        builder = builder.background_threads(threads.into());
    }
    if let Some(bytes) = options.background_rate {
        builder = builder.background_bytes_per_second(bytes);
    }
    let database = builder
        .open()
        .map_err(|error| format!("cannot open {}: {error}", options.dir.display()))?;
    if let Some(backend) = database.backend() {
        tracing::info!(dir = %options.dir.display(), "the log is written through {backend}");
    }
    let pin = match options.pin {
        Pin::Auto => threads <= cores,
        Pin::On => true,
        Pin::Off => false,
    };
    let places = Places { listeners, address, rings, pin };
    let outcome = run(options, Ways { users, tls, unix, admin }, database.clone(), places, events);
    let closed = database.close().map_err(|error| format!("cannot close the database: {error}"));
    outcome.and(closed)?;
    tracing::info!("closed cleanly");
    Ok(())
}

/// Where the cores serve, and how.
struct Places {
    /// One per core, all on one address.
    listeners: Vec<TcpListener>,
    address: SocketAddr,
    /// One per core, or none: then epoll it is.
    rings: Option<Vec<Ring>>,
    /// Whether each thread stays on a core of its own.
    pin: bool,
}

/// Runs the cores until one of `events` ends them.
fn run(
    options: &Serve,
    ways: Ways,
    database: Database,
    places: Places,
    events: Events,
) -> Result<(), String> {
    let Places { listeners, address, rings, pin } = places;
    let driver = if rings.is_some() { "io_uring" } else { "epoll" };
    let failed = |error: io::Error| format!("cannot start: {error}");
    let wakers = listeners
        .iter()
        .map(|_| CoreWaker::new().map(Arc::new))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed)?;
    let durability = Durability::from(options.durability);
    let backups = Backups::start(database.clone(), options.backup_dir.clone()).map_err(failed)?;
    let mut shared = Shared::new(
        database,
        options.defaults(),
        address,
        options.dir.clone(),
        backups,
        wakers.iter().cloned().map(Waker::from).collect(),
        driver,
    )
    .map_err(|error| format!("cannot open {}: {error}", options.dir.display()))?;
    shared.users = ways.users;
    shared.limits = options.limits()?;
    shared.unix_socket = options.unix_socket.clone();
    shared.config_file = options.config.clone();
    shared.slowlog.set_threshold(options.slowlog_log_slower_than);
    shared.slowlog.set_entries_max(options.slowlog_max_len as usize);
    let mut doors: Vec<Door> = ways.unix.map(Door::Unix).into_iter().collect();
    if let Some((acceptor, listener)) = ways.tls {
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!("TLS on {address}");
        shared.tls = Some((acceptor, address));
        doors.push(Door::Tls(listener));
    }
    shared.clients_max = options.maxclients as usize;
    let helpers = options.helpers.map_or_else(|| helpers_for(wakers.len()), usize::from);
    shared.counters.resize_with(wakers.len() + helpers, Default::default);
    let shared = Arc::new(shared);

    let (mut threads, mut helping) = (Vec::new(), Vec::new());
    let mut rings = rings.map(Vec::into_iter);
    for (core, (listener, waker)) in listeners.into_iter().zip(wakers).enumerate() {
        let ring = rings.as_mut().and_then(Iterator::next);
        let (shared, notice) = (shared.clone(), events.notice());
        let thread = std::thread::Builder::new().name(format!("core-{core}")).spawn(move || {
            // Told even if the core panics: a server without one of its cores is no server.
            let _notice = notice;
            if pin {
                pin_to(core);
            }
            match ring {
                Some(ring) => {
                    let driver = Uring::new(ring, listener, waker.clone())?;
                    Worker::new(driver, shared, core, waker.into()).run()
                }
                None => {
                    let driver = Epoll::new(listener, waker.clone())?;
                    Worker::new(driver, shared, core, waker.into()).run()
                }
            }
        });
        threads.push(thread.map_err(failed)?);
    }
    for helper in 0..helpers {
        let (shared, notice) = (shared.clone(), events.notice());
        let thread =
            std::thread::Builder::new().name(format!("helper-{helper}")).spawn(move || {
                let _notice = notice;
                shared.helpers.work(&shared, helper);
                Ok(())
            });
        helping.push(thread.map_err(failed)?);
    }
    for door in doors {
        acceptors::open(shared.clone(), door).map_err(failed)?;
    }
    if let Some(listener) = ways.admin {
        admin::open(shared.clone(), listener).map_err(failed)?;
    }
    tracing::info!(threads = threads.len(), ?durability, driver, "ready on {address}");
    // For scripts: the one line on standard output says where the server is.
    let mut output = io::stdout();
    if let Err(error) = writeln!(output, "listening on {address}").and_then(|()| output.flush()) {
        tracing::debug!(%error, "standard output is closed");
    }

    let event = loop {
        match events.wait() {
            Event::Reload => reload(&shared),
            event => break event,
        }
    };
    match event {
        Event::Reload => {}
        Event::Signal(name) => tracing::info!("{name}: finishing what is in hand"),
        Event::CoreEnded => tracing::error!("a core has ended: stopping"),
    }
    shared.stop();
    let cores = threads.into_iter().map(|thread| ended(thread, "core"));
    let outcome = cores.fold(Ok(()), Result::and);
    shared.helpers.close();
    let helpers = helping.into_iter().map(|thread| ended(thread, "helper"));
    helpers.fold(outcome, Result::and)
}

/// Waits for the end of a core or a helper.
fn ended(thread: JoinHandle<io::Result<()>>, what: &str) -> Result<(), String> {
    match thread.join() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("a {what} failed: {error}")),
        Err(_) => Err(format!("a {what} panicked: see above; nothing acknowledged is lost")),
    }
}

/// How many helpers there are where nobody says it: two, so that one long command does not hold up all
/// others, and up to four where there are more cores.
fn helpers_for(cores: usize) -> usize {
    cores.clamp(2, 4)
}

/// What else clients come by, and who they are.
struct Ways {
    users: Users,
    tls: Option<(Acceptor, TcpListener)>,
    unix: Option<UnixListener>,
    admin: Option<TcpListener>,
}

fn open_tls(options: &Serve) -> Result<Option<(Acceptor, TcpListener)>, String> {
    let (Some(port), Some(cert), Some(key)) =
        (options.tls_port, options.tls_cert.clone(), options.tls_key.clone())
    else {
        return Ok(None);
    };
    let acceptor = Acceptor::open(Files { cert, key, client_ca: options.tls_client_ca.clone() })?;
    let address = SocketAddr::new(options.listen.ip(), port);
    let mut listeners =
        listen(address, 1).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    Ok(listeners.pop().map(|listener| (acceptor, listener)))
}

/// A Unix socket. What a server before left at its place goes, if nobody listens there any more.
fn listen_locally(path: &Path) -> Result<UnixListener, String> {
    let failed = |error: io::Error| format!("cannot listen on {}: {error}", path.display());
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        bound => return bound.map_err(failed),
    }
    if UnixStream::connect(path).is_ok() {
        return Err(format!("cannot listen on {}: another server does", path.display()));
    }
    rustix::fs::unlink(path).map_err(|error| failed(error.into()))?;
    UnixListener::bind(path).map_err(failed)
}

/// SIGHUP: certificates are read anew. What is wrong is told, and changes nothing.
fn reload(shared: &Shared) {
    let Some((acceptor, _)) = &shared.tls else { return };
    match acceptor.reload() {
        Ok(()) => tracing::info!("the certificates are read anew"),
        Err(error) => tracing::error!(%error, "the certificates stay as they are"),
    }
}

/// Refuses what would let anybody in from elsewhere.
fn check_exposure(options: &Serve, users: &Users) -> Result<(), String> {
    let address = options.listen.ip();
    if address.is_loopback() || users.unproven().is_none() {
        return Ok(());
    }
    Err(format!(
        "{address} is not a loopback address, and clients need not prove who they are: refused. Give \
         a password (--requirepass) or a file of users (--acl-file) whose `default` has one or is off"
    ))
}

/// One listener per core, all on one address.
fn listen(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let socket = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart need not wait for the last server's connections to be forgotten.
        socket.set_reuse_address(true)?;
        io::Result::Ok(socket)
    };
    let first = socket()?;
    // See rule 2 at the head of this file. Two sockets may be bound to one address for as long as
    // neither listens; so listening comes before sharing is allowed.
    first.bind(&address.into())?;
    first.listen(BACKLOG)?;
    first.set_reuse_port(true)?;
    let bound = first.local_addr()?;
    let mut listeners = vec![TcpListener::from(first)];
    for _ in 1..count {
        let next = socket()?;
        next.set_reuse_port(true)?;
        next.bind(&bound)?;
        next.listen(BACKLOG)?;
        listeners.push(TcpListener::from(next));
    }
    Ok(listeners)
}

/// A ring for each core; none where epoll is to serve.
fn rings(driver: Sockets, threads: usize) -> Result<Option<Vec<Ring>>, String> {
    match driver {
        Sockets::Epoll => Ok(None),
        Sockets::Uring => uring::rings(threads).map(Some).map_err(|denied| {
            format!(
                "cannot serve clients through io_uring: {denied}; --driver auto takes epoll then"
            )
        }),
        Sockets::Auto => match uring::rings(threads) {
            Ok(rings) => Ok(Some(rings)),
            Err(denied) => {
                tracing::info!("clients are served through epoll, as io_uring is denied: {denied}");
                Ok(None)
            }
        },
    }
}

/// As many connections as the system lets us have.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit on file descriptors stays as it is");
    }
}

/// Keeps the calling thread on one core. It is an optimisation: a refusal is no error.
fn pin_to(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    let allowed = rustix::thread::sched_getaffinity(None);
    let chosen = allowed.ok().and_then(|allowed| {
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).nth(core)
    });
    if let Some(cpu) = chosen {
        set.set(cpu);
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            tracing::debug!(%error, core, "the core's thread is not pinned");
        }
    }
}

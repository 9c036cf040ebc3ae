//! The connection itself: HELLO, SELECT, CLIENT and small talk.

use super::{Outcome, is};
use crate::clients::{Client, Label};
use crate::execute::{Flow, Try};
use crate::failure::{Failure, NOT_AN_INTEGER, syntax};
use crate::number;
use crate::resp::{Args, Reply};
use crate::session::{Replies, Session};
use crate::shared::DATABASES;
use crate::store::Cx;
use crate::terms::{Misread, Terms};
use std::time::Duration;

/// The Redis release whose behaviour is followed: clients choose what they send by it.
pub(super) const REDIS_RELEASE: &str = "7.0.15";

/// `PING [message]`
pub(super) fn ping(_: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match (args.get(1), args.len()) {
        (None, _) => reply.simple("PONG"),
        (Some(message), 2) => reply.bulk(message),
        _ => return Err(Failure::text(super::wrong_arity("ping"))),
    }
    Ok(())
}

/// `ECHO message`
pub(super) fn echo(_: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.bulk(args.at(1));
    Ok(())
}

/// `QUIT`
pub(super) fn quit(_: &mut Session, _: Try<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Flow {
    reply.ok();
    Flow::Close
}

/// `RESET`
pub(super) fn reset(
    session: &mut Session,
    this: Try<'_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    session.reset();
    session.become_user(this.shared.users.unproven());
    session.client.label(Label::Name, "");
    reply.speak(false);
    reply.simple("RESET");
    Flow::Done
}

/// `SELECT index`
pub(super) fn select(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let index = number::parse(args.at(1)).ok_or_else(|| Failure::text(NOT_AN_INTEGER))?;
    cx.session.db = u8::try_from(index)
        .ok()
        .filter(|db| *db < DATABASES)
        .ok_or_else(|| Failure::text("ERR DB index is out of range"))?;
    reply.ok();
    Ok(())
}

/// `HELLO [protover [AUTH username password] [SETNAME clientname]]`
pub(super) fn hello(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let mut resp3 = cx.session.resp3;
    if let Some(version) = args.get(1) {
        resp3 = match number::parse(version) {
            Some(2) => false,
            Some(3) => true,
            Some(_) => return Err(Failure::text("NOPROTO unsupported protocol version")),
            None => {
                return Err(Failure::text(
                    "ERR Protocol version is not an integer or out of range",
                ));
            }
        };
    }
    let (mut name, mut credentials) = (None, None);
    let mut options = args.from(2);
    while let Some(option) = options.next() {
        let unknown = || {
            let option = String::from_utf8_lossy(option);
            Failure::text(format!("ERR Syntax error in HELLO option '{option}'"))
        };
        let value = options.next().ok_or_else(unknown)?;
        match option {
            _ if is(option, "AUTH") => {
                credentials = Some((value, options.next().ok_or_else(unknown)?));
            }
            _ if is(option, "SETNAME") => name = Some(client_text(value, "Client names")?),
            _ => return Err(unknown()),
        }
    }
    if let Some((user, password)) = credentials {
        super::users::authenticate(cx, user, password)?;
    }
    if !cx.session.is_proven() {
        return Err(Failure::text(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
             <proto> AUTH <user> <pass> option can be used to authenticate the client and select the \
             RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        cx.session.client.label(Label::Name, name);
    }
    cx.session.resp3 = resp3;
    reply.speak(resp3);
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(REDIS_RELEASE.as_bytes());
    reply.bulk(b"proto");
    reply.integer(if resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(cx.session.client.id as i64);
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

/// A name that a client gives itself: visible ASCII without blanks.
fn client_text<'a>(text: &'a [u8], what: &str) -> Result<&'a str, Failure> {
    std::str::from_utf8(text)
        .ok()
        .filter(|text| text.bytes().all(|byte| (b'!'..=b'~').contains(&byte)))
        .ok_or_else(|| {
            Failure::text(format!(
                "ERR {what} cannot contain spaces, newlines or special characters."
            ))
        })
}

/// `CLIENT ID`
pub(super) fn client_id(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(cx.session.client.id as i64);
    Ok(())
}

/// `CLIENT SETNAME name`
pub(super) fn client_setname(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    cx.session.client.label(Label::Name, client_text(args.at(2), "Client names")?);
    reply.ok();
    Ok(())
}

/// `CLIENT GETNAME`
pub(super) fn client_getname(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let name = cx.session.client.name();
    reply.bulk_or_null(Some(name.as_bytes()).filter(|name| !name.is_empty()));
    Ok(())
}

/// `CLIENT SETINFO LIB-NAME name | LIB-VER version`
pub(super) fn client_setinfo(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (label, what) = match args.at(2) {
        attribute if is(attribute, "LIB-NAME") => (Label::Library, "lib-name"),
        attribute if is(attribute, "LIB-VER") => (Label::LibraryNumber, "lib-ver"),
        other => {
            let other = String::from_utf8_lossy(other);
            return Err(Failure::text(format!("ERR Unrecognized option '{other}'")));
        }
    };
    cx.session.client.label(label, client_text(args.at(3), what)?);
    reply.ok();
    Ok(())
}

/// `CLIENT INFO`
pub(super) fn client_info(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let client = &cx.session.client;
    client.note(cx.shared.now_ms(), &cx.session.situation());
    reply.text(&(client.line(cx.shared.now_ms()) + "\n"));
    Ok(())
}

/// `CLIENT LIST [TYPE type] [ID id [id ...]]`
pub(super) fn client_list(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let wanted: Box<dyn Fn(&Client) -> bool> = match (args.get(2), args.get(3)) {
        (None, _) => Box::new(|_| true),
        (Some(word), Some(kind)) if is(word, "TYPE") && args.len() == 4 => {
            let normal = is_normal(kind)?;
            Box::new(move |_| normal)
        }
        (Some(word), Some(_)) if is(word, "ID") => {
            let ids: Option<Vec<i64>> = args.from(3).map(number::parse).collect();
            let ids = ids.ok_or_else(|| Failure::text("ERR Invalid client ID"))?;
            Box::new(move |client| ids.contains(&(client.id as i64)))
        }
        _ => return Err(syntax()),
    };
    let now = cx.shared.now_ms();
    cx.session.client.note(now, &cx.session.situation());
    let mut text = String::new();
    for client in cx.shared.clients.all().iter().filter(|client| wanted(client)) {
        text.push_str(&client.line(now));
        text.push('\n');
    }
    reply.text(&text);
    Ok(())
}

/// Whether this type of clients is the one that all clients here are of.
fn is_normal(kind: &[u8]) -> Result<bool, Failure> {
    let known = ["NORMAL", "MASTER", "REPLICA", "SLAVE", "PUBSUB"];
    if !known.iter().any(|known| is(kind, known)) {
        let kind = String::from_utf8_lossy(kind);
        return Err(Failure::text(format!("ERR Unknown client type '{kind}'")));
    }
    Ok(is(kind, "NORMAL"))
}

/// The name of a user who is there.
fn known_user(cx: &Cx<'_>, name: &[u8]) -> Result<String, Failure> {
    let user = std::str::from_utf8(name).ok().and_then(|name| cx.shared.users.get(name));
    let name = String::from_utf8_lossy(name);
    let user = user.ok_or_else(|| Failure::text(format!("ERR No such user '{name}'")))?;
    Ok(user.name.clone())
}

/// `CLIENT KILL address`, `CLIENT KILL [ID id] [TYPE type] [USER name] [ADDR address] [LADDR address]
/// [SKIPME yes | no]`
pub(super) fn client_kill(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let own = cx.session.client.id;
    let clients = cx.shared.clients.all();
    let mut killed = 0;
    if args.len() == 3 {
        let victim = clients.iter().find(|client| client.peer.as_bytes() == args.at(2));
        victim.ok_or_else(|| Failure::text("ERR No such client"))?.kill();
        reply.ok();
    } else {
        let (mut id, mut peer, mut local, mut skip_me) = (None, None, None, true);
        let (mut user, mut normal) = (None, true);
        let mut options = args.from(2);
        while let Some(option) = options.next() {
            let value = options.next().ok_or_else(syntax)?;
            match option {
                _ if is(option, "ID") => {
                    let wanted = number::parse(value).filter(|id| *id > 0);
                    id =
                        Some(wanted.ok_or_else(|| {
                            Failure::text("ERR client-id should be greater than 0")
                        })? as u64);
                }
                _ if is(option, "ADDR") => peer = Some(value),
                _ if is(option, "LADDR") => local = Some(value),
                _ if is(option, "TYPE") => normal = is_normal(value)?,
                _ if is(option, "USER") => user = Some(known_user(cx, value)?),
                _ if is(option, "SKIPME") && is(value, "YES") => skip_me = true,
                _ if is(option, "SKIPME") && is(value, "NO") => skip_me = false,
                _ => return Err(syntax()),
            }
        }
        for client in &clients {
            let chosen = id.is_none_or(|id| client.id == id)
                && peer.is_none_or(|peer| client.peer.as_bytes() == peer)
                && local.is_none_or(|local| client.local.as_bytes() == local)
                && user.as_ref().is_none_or(|user| client.user() == *user)
                && normal
                && !(skip_me && client.id == own);
            if chosen {
                client.kill();
                killed += 1;
            }
        }
        reply.count(killed);
    }
    cx.shared.wake_all();
    Ok(())
}

/// `CLIENT TRANSACTION [term ...]`: the terms of BEGIN, for those that follow; without any, what they
/// are.
pub(super) fn client_transaction(
    cx: &mut Cx<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Outcome {
    match (args.get(2), args.len()) {
        (None, _) => {
            tell_terms(cx, reply);
            return Ok(());
        }
        (Some(word), 3) if is(word, "RESET") => cx.session.terms = Terms::default(),
        _ => {
            let terms = Terms::parse(args.from(2)).map_err(|Misread(text)| Failure::text(text))?;
            if terms.age.is_some() || terms.at.is_some() || terms.snapshot.is_some() {
                let text = "ERR AGE, AT and SNAPSHOT are for BEGIN: they belong to one transaction";
                return Err(Failure::text(text));
            }
            cx.session.terms = terms.or(&cx.session.terms);
        }
    }
    reply.ok();
    Ok(())
}

fn tell_terms(cx: &Cx<'_>, reply: &mut Reply<'_>) {
    let options = cx.shared.defaults.settle(&cx.session.terms);
    let limit = |limit: Option<Duration>| match limit {
        Some(limit) if limit != Duration::MAX => limit.as_millis(),
        _ => 0,
    };
    let durability = options.durability.unwrap_or(cx.shared.defaults.durability);
    let terms = [
        ("isolation", options.isolation.to_string()),
        ("concurrency", options.concurrency.to_string()),
        ("durability", super::server::durability_name(durability).to_owned()),
        ("read-only", if options.read_only { "yes" } else { "no" }.to_owned()),
        ("timeout", limit(options.timeout).to_string()),
        ("lock-timeout", limit(options.lock_timeout).to_string()),
    ];
    reply.map(terms.len());
    for (name, value) in terms {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}

/// `CLIENT WAITING [id ...]`: the connections whose command waits for a lock, each with the ages of the
/// transactions that stand in its way.
pub(super) fn client_waiting(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let ids: Option<Vec<i64>> = args.from(2).map(number::parse).collect();
    let ids = ids.ok_or_else(|| Failure::text("ERR Invalid client ID"))?;
    let clients = cx.shared.clients.all();
    let asked = clients.iter().filter(|c| ids.is_empty() || ids.contains(&(c.id as i64)));
    let waiting: Vec<_> = asked.filter_map(|client| Some((client.id, client.waiting()?))).collect();
    reply.map(waiting.len());
    for (id, ages) in waiting {
        reply.integer(id as i64);
        reply.array(ages.len());
        ages.iter().for_each(|age| reply.integer(i64::try_from(*age).unwrap_or(i64::MAX)));
    }
    Ok(())
}

/// `CLIENT NO-EVICT ON | OFF`, `CLIENT NO-TOUCH ON | OFF`: nothing is ever evicted here.
pub(super) fn client_switch(_: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if !is(args.at(2), "ON") && !is(args.at(2), "OFF") {
        return Err(syntax());
    }
    reply.ok();
    Ok(())
}

/// `CLIENT PAUSE milliseconds [WRITE | ALL]`
pub(super) fn client_pause(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let writes_only = match (args.get(3), args.len()) {
        (None, _) => false,
        (Some(word), 4) if is(word, "ALL") => false,
        (Some(word), 4) if is(word, "WRITE") => true,
        _ => return Err(syntax()),
    };
    let millis = number::parse(args.at(2))
        .ok_or_else(|| Failure::text("ERR timeout is not an integer or out of range"))?;
    let millis = u64::try_from(millis).map_err(|_| Failure::text("ERR timeout is negative"))?;
    cx.shared.pause.until(cx.shared.now_ms().saturating_add(millis), writes_only);
    reply.ok();
    Ok(())
}

/// `CLIENT UNPAUSE`
pub(super) fn client_unpause(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    cx.shared.pause.end();
    reply.ok();
    Ok(())
}

/// `CLIENT REPLY ON | OFF | SKIP`
pub(super) fn client_reply(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match args.at(2) {
        word if is(word, "ON") => {
            cx.session.replies = Replies::All;
            reply.ok();
        }
        word if is(word, "OFF") => cx.session.replies = Replies::None,
        word if is(word, "SKIP") => {
            if !matches!(cx.session.replies, Replies::None) {
                cx.session.replies = Replies::NotThisAndNext;
            }
        }
        _ => return Err(syntax()),
    }
    Ok(())
}

/// `CLIENT TRACKING ON | OFF`
pub(super) fn client_tracking(_: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if !is(args.at(2), "OFF") {
        return Err(Failure::text(
            "ERR client-side caching is not supported: nobody is told of keys that change",
        ));
    }
    reply.ok();
    Ok(())
}

/// `CLIENT GETREDIR`
pub(super) fn client_getredir(_: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(-1);
    Ok(())
}

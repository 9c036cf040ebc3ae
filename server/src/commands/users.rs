//! Users: AUTH, and the ACL commands.

use super::{CATEGORIES, Handler, Outcome, Spec, all, is};
use crate::acl::Refused;
use crate::failure::{Failure, syntax};
use crate::number;
use crate::resp::{Args, Reply};
use crate::session::Mode;
use crate::store::Cx;

/// How many refusals ACL LOG gives if it is not told.
const LOG_COUNT: usize = 10;

/// `AUTH [username] password`
pub(super) fn auth(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match args.len() {
        2 => {
            let default = cx.shared.users.get("default");
            if default.is_some_and(|user| user.takes_any_password()) {
                return Err(Failure::text(
                    "ERR AUTH <password> called without any password configured for the default \
                     user. Are you sure your configuration is correct?",
                ));
            }
            authenticate(cx, b"default", args.at(1))?;
        }
        3 => authenticate(cx, args.at(1), args.at(2))?,
        _ => return Err(syntax()),
    }
    reply.ok();
    Ok(())
}

/// Makes the session that user's, if it is.
pub(super) fn authenticate(cx: &mut Cx<'_>, name: &[u8], password: &[u8]) -> Outcome {
    match cx.shared.users.prove(name, password) {
        Some(user) => {
            cx.session.become_user(Some(user));
            Ok(())
        }
        None => {
            let user = String::from_utf8_lossy(name).into_owned();
            note(cx, "auth", b"AUTH", user);
            Err(Failure::text("WRONGPASS invalid username-password pair or user is disabled."))
        }
    }
}

fn note(cx: &Cx<'_>, reason: &'static str, object: &[u8], user: String) {
    let queueing = matches!(cx.session.mode, Mode::Queueing(_));
    let now = cx.shared.now_ms();
    cx.shared.users.refuse(Refused {
        count: 1,
        reason,
        context: if queueing { "multi" } else { "toplevel" },
        object: object.to_vec(),
        user,
        client: cx.session.client.line(now),
        at: now,
    });
}

/// `ACL WHOAMI`
pub(super) fn whoami(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.bulk(cx.session.user_name().as_bytes());
    Ok(())
}

/// `ACL USERS`
pub(super) fn names(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let users = cx.shared.users.all();
    reply.array(users.len());
    users.iter().for_each(|user| reply.bulk(user.name.as_bytes()));
    Ok(())
}

/// `ACL LIST`
pub(super) fn list(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let users = cx.shared.users.all();
    reply.array(users.len());
    users.iter().for_each(|user| reply.bulk(&user.line()));
    Ok(())
}

/// A user's name: no blanks, which would end it in the file.
fn name(text: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(text)
        .ok()
        .filter(|text| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '\0'))
        .ok_or_else(|| Failure::text("ERR Usernames can't contain spaces or null characters"))
}

/// `ACL SETUSER username [rule ...]`
pub(super) fn set_user(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    cx.shared.users.set(name(args.at(2))?, args.from(3)).map_err(Failure::text)?;
    reply.ok();
    Ok(())
}

/// `ACL GETUSER username`
pub(super) fn get_user(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let user = std::str::from_utf8(args.at(2)).ok().and_then(|name| cx.shared.users.get(name));
    let Some(user) = user else {
        reply.null();
        return Ok(());
    };
    reply.map(6);
    reply.bulk(b"flags");
    let flags = user.flags();
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    reply.bulk(b"passwords");
    let hashes = user.hashes();
    reply.array(hashes.len());
    hashes.iter().for_each(|hash| reply.bulk(hash.as_bytes()));
    reply.bulk(b"commands");
    reply.bulk(user.command_rules().as_bytes());
    reply.bulk(b"keys");
    reply.bulk(&user.key_rules());
    reply.bulk(b"channels");
    reply.bulk(b"");
    reply.bulk(b"selectors");
    reply.array(0);
    Ok(())
}

/// `ACL DELUSER username [username ...]`
pub(super) fn del_user(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args.from(2).any(|name| name == b"default") {
        return Err(Failure::text("ERR The 'default' user cannot be removed"));
    }
    let gone = cx.shared.users.remove(args.from(2));
    // Whoever was one of them is nobody any more, and is told so to go.
    for client in cx.shared.clients.all() {
        if args.from(2).any(|name| name == client.user().as_bytes()) {
            client.kill();
        }
    }
    cx.shared.wake_all();
    reply.count(gone);
    Ok(())
}

/// `ACL CAT [category]`
pub(super) fn categories(_: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let Some(wanted) = args.get(2) else {
        reply.array(CATEGORIES.len());
        CATEGORIES.iter().for_each(|category| reply.bulk(category.as_bytes()));
        return Ok(());
    };
    if args.len() > 3 {
        return Err(super::subcommand_syntax("CAT", "ACL"));
    }
    let wanted = CATEGORIES.iter().find(|category| is(wanted, category)).ok_or_else(|| {
        Failure::text(format!("ERR Unknown category '{}'", String::from_utf8_lossy(wanted)))
    })?;
    let mut found = Vec::new();
    for spec in all() {
        let itself = !matches!(spec.handler, Handler::Container);
        let has = |spec: &Spec| spec.categories().contains(wanted);
        if itself && has(spec) {
            found.push(spec.name.to_owned());
        }
        let subs = spec.subcommands.iter().filter(|sub| has(sub));
        found.extend(subs.map(|sub| format!("{}|{}", spec.name, sub.name)));
    }
    reply.array(found.len());
    found.iter().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(())
}

/// `ACL LOG [count | RESET]`
pub(super) fn log(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args.len() > 3 {
        return Err(super::subcommand_syntax("LOG", "ACL"));
    }
    let count = match args.get(2) {
        None => LOG_COUNT,
        Some(word) if is(word, "RESET") => {
            cx.shared.users.forget_refusals();
            reply.ok();
            return Ok(());
        }
        Some(count) => number::parse(count)
            .and_then(|count| usize::try_from(count).ok())
            .ok_or_else(|| Failure::text(crate::failure::NOT_AN_INTEGER))?,
    };
    let now = cx.shared.now_ms();
    let refusals = cx.shared.users.refusals(count);
    reply.array(refusals.len());
    for entry in refusals {
        reply.map(7);
        reply.bulk(b"count");
        reply.integer(i64::try_from(entry.count).unwrap_or(i64::MAX));
        let age = now.saturating_sub(entry.at);
        let age = format!("{}.{:03}", age / 1000, age % 1000);
        for (name, value) in [
            ("reason", entry.reason.as_bytes()),
            ("context", entry.context.as_bytes()),
            ("object", &entry.object),
            ("username", entry.user.as_bytes()),
            ("age-seconds", age.as_bytes()),
            ("client-info", entry.client.as_bytes()),
        ] {
            reply.bulk(name.as_bytes());
            reply.bulk(value);
        }
    }
    Ok(())
}

/// `ACL SAVE`
pub(super) fn save(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    cx.shared.users.save().map_err(Failure::text)?;
    reply.ok();
    Ok(())
}

/// `ACL LOAD`
pub(super) fn load(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    cx.shared.users.load().map_err(Failure::text)?;
    reply.ok();
    Ok(())
}

//! Keyspaces and their options.

use super::Outcome;
use crate::failure::{Failure, describe, syntax};
use crate::resp::{Args, Reply};
use crate::store::Cx;
use isolith::{Compression, KeyspaceOptions, PrefixExtractor};
use std::time::Duration;

/// `KEYSPACE CREATE name [option value ...]`
pub(super) fn create(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (name, mut options) = (name(args)?, KeyspaceOptions::default());
    set_each(&mut options, args)?;
    cx.shared.database.keyspace_with(&name, options).map_err(told)?;
    reply.ok();
    Ok(())
}

/// `KEYSPACE LIST`
pub(super) fn list(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let names = cx.shared.database.keyspaces();
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(())
}

/// `KEYSPACE OPTIONS name`
pub(super) fn options(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let keyspace = cx.shared.database.keyspace_if_exists(&name(args)?).map_err(told)?;
    let Some(keyspace) = keyspace else {
        reply.null();
        return Ok(());
    };
    let options = keyspace.options();
    let shown = [
        ("compression", shown_compression(options.compression)),
        ("filter", options.filter_bits_per_key.to_string()),
        ("prefix", shown_prefix(options.prefix_filter)),
        ("ttl", options.ttl.map_or(0, |ttl| ttl.as_millis()).to_string()),
        ("merge", options.merge_operator.unwrap_or_else(|| "none".into())),
        ("block", options.block_bytes.to_string()),
        ("large", options.large_values.map_or("default".into(), |bytes| bytes.to_string())),
    ];
    reply.map(shown.len());
    for (name, value) in shown {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(())
}

/// `KEYSPACE SET name option value [option value ...]`
pub(super) fn set(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let keyspace = cx.shared.database.keyspace_if_exists(&name(args)?).map_err(told)?;
    let keyspace = keyspace.ok_or_else(|| Failure::text("ERR no such keyspace"))?;
    let mut options = keyspace.options();
    set_each(&mut options, args)?;
    keyspace.set_options(options).map_err(told)?;
    reply.ok();
    Ok(())
}

/// None of these errors ends a transaction that is open: they did nothing within it.
fn told(error: isolith::Error) -> Failure {
    Failure::text(describe(&error, None))
}

fn name(args: Args<'_>) -> Result<String, Failure> {
    let name = String::from_utf8(args.at(2).to_vec());
    name.map_err(|_| Failure::text("ERR a keyspace's name is UTF-8"))
}

fn set_each(options: &mut KeyspaceOptions, args: Args<'_>) -> Outcome {
    if args.len().is_multiple_of(2) {
        return Err(syntax());
    }
    for (option, value) in args.from(3).step_by(2).zip(args.from(4).step_by(2)) {
        let (option, value) = (String::from_utf8_lossy(option), String::from_utf8_lossy(value));
        let wrong = || Failure::text(format!("ERR '{value}' is no value of the option '{option}'"));
        set_one(options, &option.to_lowercase(), &value).ok_or_else(wrong)?;
    }
    Ok(())
}

/// `None`: there is no such option, or no such value of it.
fn set_one(options: &mut KeyspaceOptions, option: &str, value: &str) -> Option<()> {
    match option {
        "compression" => options.compression = compression(&value.to_lowercase())?,
        "filter" => options.filter_bits_per_key = value.parse().ok()?,
        "prefix" => options.prefix_filter = prefix(value)?,
        "ttl" => {
            let ttl = Duration::from_millis(value.parse().ok()?);
            options.ttl = Some(ttl).filter(|ttl| !ttl.is_zero());
        }
        "merge" => {
            let operator = value.to_lowercase();
            options.merge_operator = Some(operator).filter(|operator| operator != "none");
        }
        "block" => options.block_bytes = value.parse().ok()?,
        "large" => {
            options.large_values = match value.to_lowercase().as_str() {
                "default" => None,
                bytes => Some(bytes.parse().ok()?),
            }
        }
        _ => return None,
    }
    Some(())
}

/// The level of zstd where none is said: zstd's own.
const ZSTD_LEVEL: i32 = 3;

fn compression(value: &str) -> Option<Compression> {
    match value.split_once(':') {
        None => match value {
            "none" => Some(Compression::None),
            "lz4" => Some(Compression::Lz4),
            "zstd" => Some(Compression::Zstd(ZSTD_LEVEL)),
            _ => None,
        },
        Some(("zstd", level)) => Some(Compression::Zstd(level.parse().ok()?)),
        Some(_) => None,
    }
}

fn shown_compression(compression: Compression) -> String {
    match compression {
        Compression::None => "none".into(),
        Compression::Lz4 => "lz4".into(),
        Compression::Zstd(level) => format!("zstd:{level}"),
    }
}

fn prefix(value: &str) -> Option<Option<PrefixExtractor>> {
    if value.eq_ignore_ascii_case("none") {
        return Some(None);
    }
    let (kind, what) = value.split_once(':')?;
    let extractor = match (kind.to_lowercase().as_str(), what.as_bytes()) {
        ("length", _) => PrefixExtractor::Length(what.parse().ok()?),
        ("upto", &[delimiter]) => PrefixExtractor::UpTo(delimiter),
        _ => return None,
    };
    Some(Some(extractor))
}

fn shown_prefix(prefix: Option<PrefixExtractor>) -> String {
    match prefix {
        None => "none".into(),
        Some(PrefixExtractor::Length(bytes)) => format!("length:{bytes}"),
        Some(PrefixExtractor::UpTo(delimiter)) => format!("upto:{}", delimiter.escape_ascii()),
    }
}

//! Servers that are none, or no more: what a user is told, and how soon.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::laboratory::target::{Action, Contents, Start, Terms};

const SOON: Duration = Duration::from_millis(300);

/// A server of one idea, for the first connections that come.
fn server(mut serve: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().flatten().for_each(&mut serve));
    address
}

/// A server that reads a command and answers with these bytes, whatever was asked.
fn answering(reply: impl Into<Vec<u8>>) -> SocketAddr {
    let reply = reply.into();
    server(move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(&reply);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // Reads on: a socket that is closed with something unread resets the connection.
        while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {}
    })
}

fn refusal(address: SocketAddr) -> String {
    let begin = Instant::now();
    let address = format!("resp://:secret@{address}").parse().unwrap();
    let said = match connect(&address, SOON) {
        Ok(target) => panic!("{} is no target", target.label()),
        Err(failure) => failure.to_string(),
    };
    assert!(begin.elapsed() < Duration::from_secs(20), "it took {:?}", begin.elapsed());
    assert!(said.starts_with("resp://127.0.0.1:") && !said.contains("secret"), "{said}");
    said
}

#[test]
fn what_is_no_server_is_told() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let huge = format!("+OK\r\n${}\r\nx", 10u64 << 30);
    let endless = format!("+OK\r\n{}", "*1\r\n".repeat(1000));
    let many = format!("+OK\r\n*{}\r\n", 100_000_000) + &":1\r\n".repeat(1_000_000);
    let long = format!("+OK\r\n+{}", "x".repeat(1 << 20));
    for (address, why) in [
        (nobody, "cannot be reached"),
        (server(drop), "closed the connection"),
        (answering("HTTP/1.1 400 Bad Request\r\n\r\n"), "it said \"HTTP/1.1 400 Bad Request"),
        (answering("SSH-2.0-OpenSSH_9.2\r\n"), "does not speak the Redis protocol"),
        (answering([0x15, 3, 3, 0, 2, 2, 0x46]), "it said \"\\x15\\x03"),
        (answering("-NOAUTH Authentication required.\r\n"), "name user and password"),
        (answering("-WRONGPASS invalid\r\n"), "WRONGPASS"),
        (answering("+OK\r\n+OK\r\n"), "answered before it was asked"),
        (answering("$-7\r\n:x\r\n"), "answered before it was asked"),
        (answering("$4\r\nab"), "closed the connection"),
        (answering("$2\r\nabcd\r\n"), "does not speak the Redis protocol"),
        (answering("+O"), "does not speak the Redis protocol"),
        (answering(huge), "answered before it was asked"),
        (answering(endless), "answered before it was asked"),
        (answering(many), "answered before it was asked"),
        (answering(long), "answered before it was asked"),
    ] {
        let said = refusal(address);
        assert!(said.contains(why), "{why}: {said}");
    }
}

/// A server that answers the first command well and the second like this.
fn second(reply: impl Into<Vec<u8>>) -> SocketAddr {
    let reply = reply.into();
    server(move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"+OK\r\n");
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(&reply);
        while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {}
    })
}

#[test]
fn replies_are_bounded_in_size_and_time() {
    for (reply, why) in [
        (format!("${}\r\n", 10u64 << 30), "larger than"),
        (format!("${}\r\nabc", i64::MAX), "larger than"),
        ("*1\r\n".repeat(1000), "does not speak"),
        (format!("*{}\r\n{}", 100_000_000, ":1\r\n".repeat(1_000_000)), "larger than"),
        (format!("+{}", "x".repeat(1 << 20)), "does not speak"),
        ("$10\r\nabc".to_owned(), "did not answer in time"),
        ("*2\r\n:1\r\n".to_owned(), "did not answer in time"),
        (String::new(), "did not answer in time"),
        (":7\r\n".to_owned(), "no answer to it"),
    ] {
        let said = refusal(second(reply.clone()));
        assert!(said.contains(why), "{}: {said}", &reply[..reply.len().min(40)]);
    }
}

#[test]
fn who_dribbles_is_not_waited_for() {
    let dribbling = server(|mut stream| {
        let _ = stream.write_all(b"$1000\r\n");
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(refusal(dribbling).contains("did not answer in time"));
}

/// A server that is well for two commands of a connection, and then hangs, or goes.
fn failing(goes: bool) -> SocketAddr {
    server(move |mut stream| {
        thread::spawn(move || {
            let info = "$21\r\nredis_version:7.0.15\n\r\n";
            for reply in [info, "+OK\r\n"] {
                if matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
                    let _ = stream.write_all(reply.as_bytes());
                }
            }
            if !goes {
                while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {}
            }
        });
    })
}

#[test]
fn a_target_that_ends_in_the_middle_is_told_with_what_it_leaves() {
    for (goes, why) in [(true, "closed the connection"), (false, "did not answer in time")] {
        let address = format!("resp://{}", failing(goes)).parse().unwrap();
        let mut target = connect(&address, SOON).unwrap();
        assert!(target.label().ends_with("(redis 7.0.15)"), "{}", target.label());
        let (setup, keys) = (Contents::from([("x".to_owned(), 1)]), ["x".to_owned()]);
        let sessions = [Terms::default()];
        let (expiring, spaces) = (Default::default(), &[]);
        let start = Start {
            setup: &setup,
            expiring: &expiring,
            keys: &keys,
            spaces,
            sessions: &sessions,
            hot: false,
        };
        target.start(&start).unwrap();
        target.submit(0, &Action::Begin).unwrap();
        target.submit(0, &Action::Put("x".into(), 2, None)).unwrap();
        let failed = target.finish().unwrap_err().to_string();
        assert!(failed.contains(why) && failed.contains("may be left there"), "{failed}");
    }
}

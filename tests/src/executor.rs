//! The smallest executor that can wait: polls on the calling thread, sleeps until a waker calls. It
//! shows that the engine's futures need no runtime.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Wakes a thread, and counts.
#[derive(Debug)]
pub struct Alarm {
    thread: Thread,
    wakes: AtomicUsize,
}

impl Alarm {
    /// An alarm for the calling thread.
    pub fn new() -> Arc<Alarm> {
        Arc::new(Alarm { thread: thread::current(), wakes: AtomicUsize::new(0) })
    }

    /// How often it was called.
    pub fn wakes(&self) -> usize {
        // Relaxed: a count.
        self.wakes.load(Ordering::Relaxed)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        // Relaxed: a count; unpark orders what was done before it.
        self.wakes.fetch_add(1, Ordering::Relaxed);
        self.thread.unpark();
    }
}

/// Notes that it was rung, for one thread that polls by itself.
#[derive(Debug, Default)]
pub struct Bell(AtomicBool);

impl Bell {
    /// Whether it was rung since it was silenced.
    pub fn rung(&self) -> bool {
        // Relaxed: one thread drives everything.
        self.0.load(Ordering::Relaxed)
    }

    /// Forgets that it was rung.
    pub fn silence(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for a future.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Alarm::new());
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Waits for many at once, polling all of them each time that any wakes; gives the outputs in order.
pub fn join_all<F: Future + Unpin>(futures: Vec<F>) -> Vec<F::Output> {
    let waker = Waker::from(Alarm::new());
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    let mut futures = futures;
    loop {
        let mut waiting = false;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match pin!(future).poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(ready) => *output = Some(ready),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if !waiting {
            return outputs.into_iter().flatten().collect();
        }
        thread::park();
    }
}

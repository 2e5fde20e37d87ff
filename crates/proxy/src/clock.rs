//! The times of a client's stream, and the alarm that watches them.
//!
//! A timer of the runtime costs more than all else that a small request needs of it, so there is one a connection. It is
//! set once, to the earliest time at which anything could be due, and when it rings, what has happened meanwhile says
//! when it is to ring next. What happens to a stream only notes the time.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Why a stream ends before its answer is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// `stream_idle_timeout`: nothing came and nothing was sent.
    Idle,
    /// `request_headers_timeout`: the head is not complete.
    Headers,
    /// `request_timeout`: the request is not complete.
    Request,
    /// `max_stream_duration`.
    Duration,
    /// The client broke the protocol in the middle of its request.
    CodecError,
    /// The client ended the connection.
    Disconnect,
    /// The client reset the stream.
    Reset,
}

/// The limits of a stream; none is unlimited.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Without anything received or sent.
    pub idle: Option<Duration>,
    /// The head of the request.
    pub headers: Option<Duration>,
    /// The whole request.
    pub request: Option<Duration>,
    /// The whole stream.
    pub duration: Option<Duration>,
}

/// Tells the connection that holds the timer for its streams that one of them is due at another time than it was.
#[derive(Debug, Default)]
pub struct Moved {
    moved: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Moved {
    /// Somebody's time is another one.
    pub fn tell(&self) {
        self.moved.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ready once [`tell`](Self::tell) was called since this was ready last.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.moved.replace(false) {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

/// The times of one stream. Clones are the same.
#[derive(Debug, Clone)]
pub struct StreamClock(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: Cell<Instant>,
    active: Cell<Instant>,
    limits: Cell<Limits>,
    complete: Cell<bool>,
    ended: Cell<Option<Expiry>>,
    /// Bytes of bodies that were received and sent while both went on.
    bodies: Cell<(u64, u64)>,
    waker: RefCell<Option<Waker>>,
    /// Where somebody else than the stream's own task holds the timer.
    moved: Option<Rc<Moved>>,
}

impl StreamClock {
    /// A stream that begins.
    pub fn new(now: Instant, limits: Limits) -> Self {
        Self::watched(now, limits, None)
    }

    /// A stream that begins, whose times are looked at elsewhere.
    pub fn watched(now: Instant, limits: Limits, moved: Option<Rc<Moved>>) -> Self {
        Self(Rc::new(Inner {
            moved,
            begun: Cell::new(now),
            active: Cell::new(now),
            limits: Cell::new(limits),
            complete: Cell::new(false),
            ended: Cell::new(None),
            bodies: Cell::default(),
            waker: RefCell::default(),
        }))
    }

    /// The next stream of the same connection begins.
    pub fn restart(&self, now: Instant, limits: Limits) {
        self.0.begun.set(now);
        self.0.active.set(now);
        self.0.limits.set(limits);
        self.0.complete.set(false);
        self.0.ended.set(None);
        self.0.bodies.set((0, 0));
    }

    /// So many bytes of the request's body went on.
    pub fn add_received(&self, bytes: u64) {
        let (received, sent) = self.0.bodies.get();
        self.0.bodies.set((received + bytes, sent));
    }

    /// So many bytes of the answer's body were sent.
    pub fn add_sent(&self, bytes: u64) {
        let (received, sent) = self.0.bodies.get();
        self.0.bodies.set((received, sent + bytes));
    }

    /// Bytes that were received and sent since this was last asked for.
    pub fn take_moved(&self) -> (u64, u64) {
        self.0.bodies.take()
    }

    /// Whether both are the same.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// When the stream began.
    pub fn begun(&self) -> Instant {
        self.0.begun.get()
    }

    /// Something was received or sent.
    pub fn touch(&self) {
        if self.0.limits.get().idle.is_some() {
            self.0.active.set(Instant::now());
        }
    }

    /// The head is complete.
    pub fn head_complete(&self) {
        self.change(|limits| limits.headers = None);
    }

    /// The request is complete.
    pub fn request_complete(&self) {
        self.0.complete.set(true);
        self.change(|limits| {
            limits.headers = None;
            limits.request = None;
        });
    }

    /// Whether the request is complete.
    pub fn is_request_complete(&self) -> bool {
        self.0.complete.get()
    }

    /// Another idle limit (`RouteAction.idle_timeout`), from now on.
    pub fn set_idle(&self, idle: Option<Duration>) {
        self.0.active.set(Instant::now());
        self.change(|limits| limits.idle = idle);
        self.tell();
    }

    /// Another limit for the whole stream (`RouteAction.max_stream_duration`).
    pub fn set_duration(&self, duration: Option<Duration>) {
        self.change(|limits| limits.duration = duration);
        self.tell();
    }

    fn change(&self, change: impl FnOnce(&mut Limits)) {
        let mut limits = self.0.limits.get();
        change(&mut limits);
        self.0.limits.set(limits);
    }

    fn tell(&self) {
        if let Some(moved) = &self.0.moved {
            moved.tell();
        }
    }

    /// Ends the stream.
    pub fn end(&self, expiry: Expiry) {
        self.0.ended.set(Some(expiry));
        if let Some(waker) = self.0.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// When something is due next, as things are now.
    pub fn next(&self) -> Option<Instant> {
        self.due().map(|(at, _)| at)
    }

    fn due(&self) -> Option<(Instant, Expiry)> {
        let (limits, begun) = (self.0.limits.get(), self.0.begun.get());
        [
            limits.headers.map(|limit| (begun + limit, Expiry::Headers)),
            limits.request.map(|limit| (begun + limit, Expiry::Request)),
            limits.duration.map(|limit| (begun + limit, Expiry::Duration)),
            limits.idle.map(|limit| (self.0.active.get() + limit, Expiry::Idle)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// What was due at that time; the stream ends then.
    pub fn check(&self, now: Instant) -> Option<Expiry> {
        if self.0.ended.get().is_none()
            && let Some((at, expiry)) = self.due()
            && at <= now
        {
            self.end(expiry);
        }
        self.0.ended.get()
    }

    /// Resolves when the stream has ended before its time. Somebody else [checks](Self::check) the time.
    pub async fn ended(&self) -> Expiry {
        std::future::poll_fn(|context| match self.0.ended.get() {
            Some(expiry) => Poll::Ready(expiry),
            None => {
                *self.0.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// The timer of a connection.
#[derive(Debug, Default)]
pub struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
}

impl Alarm {
    /// Ready at that time. May be asked for another time whenever it is polled.
    pub fn poll(&mut self, context: &mut Context<'_>, at: Instant) -> Poll<()> {
        let target = tokio::time::Instant::from_std(at);
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                if sleep.deadline() > target {
                    sleep.as_mut().reset(target);
                    self.waker = None;
                }
                sleep
            }
            None => self.sleep.insert(Box::pin(tokio::time::sleep_until(target))),
        };
        // It is registered for this task already: nothing to do until it rings.
        if !sleep.is_elapsed() && self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            return Poll::Pending;
        }
        while sleep.as_mut().poll(context).is_ready() {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            // It rang for an earlier time, and things have changed since.
            sleep.as_mut().reset(target);
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Resolves when the stream of that clock has ended before its time.
    pub async fn watch(&mut self, clock: &StreamClock) -> Expiry {
        std::future::poll_fn(|context| {
            loop {
                if let Some(expiry) = clock.0.ended.get() {
                    return Poll::Ready(expiry);
                }
                let Some(next) = clock.next() else { return Poll::Pending };
                std::task::ready!(self.poll(context, next));
                clock.check(Instant::now());
            }
        })
        .await
    }

    /// Resolves at that time.
    pub async fn at(&mut self, at: Instant) {
        std::future::poll_fn(|context| self.poll(context, at)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_due_first_counts() {
        let begun = Instant::now();
        let limits = Limits {
            idle: Some(10 * SECOND),
            headers: Some(2 * SECOND),
            request: Some(5 * SECOND),
            duration: Some(60 * SECOND),
        };
        let clock = StreamClock::new(begun, limits);
        assert_eq!(clock.next(), Some(begun + 2 * SECOND));
        assert_eq!(clock.check(begun + SECOND), None);
        clock.head_complete();
        assert_eq!(clock.next(), Some(begun + 5 * SECOND));
        clock.request_complete();
        assert_eq!(clock.check(begun + 9 * SECOND), None);
        assert_eq!(clock.check(begun + 10 * SECOND), Some(Expiry::Idle));
        clock.restart(begun, limits);
        clock.request_complete();
        clock.set_idle(None);
        assert_eq!(clock.check(begun + 60 * SECOND), Some(Expiry::Duration));
        // What ended it first stays the reason.
        clock.end(Expiry::Reset);
        assert_eq!(clock.check(begun + 90 * SECOND), Some(Expiry::Reset));
    }

    #[tokio::test(start_paused = true)]
    async fn the_alarm_rings_when_it_is_asked_last() {
        // Time stands still here but for sleeping, so the alarm's own look at the clock is of no use; a far target
        // shows that an early ring is not taken for the later one.
        let mut alarm = Alarm::default();
        let now = Instant::now();
        let waker = Waker::noop();
        let mut context = Context::from_waker(waker);
        assert!(alarm.poll(&mut context, now + 3600 * SECOND).is_pending());
        assert!(alarm.poll(&mut context, now + 7200 * SECOND).is_pending());
        assert!(alarm.poll(&mut context, now - SECOND).is_ready());
    }

    #[test]
    fn who_holds_the_timer_learns_of_other_times() {
        let moved = Rc::new(Moved::default());
        let context = Context::from_waker(Waker::noop());
        let clock = StreamClock::watched(Instant::now(), Limits::default(), Some(Rc::clone(&moved)));
        assert!(moved.poll(&context).is_pending());
        clock.set_idle(Some(SECOND));
        assert!(moved.poll(&context).is_ready() && moved.poll(&context).is_pending());
        clock.set_duration(Some(SECOND));
        assert!(moved.poll(&context).is_ready());
    }

    #[tokio::test]
    async fn an_end_wakes_who_waits() {
        let clock = StreamClock::new(Instant::now(), Limits::default());
        let other = clock.clone();
        let local = tokio::task::LocalSet::new();
        local.spawn_local(async move { other.end(Expiry::Reset) });
        let expiry = local.run_until(async { clock.ended().await }).await;
        assert_eq!(expiry, Expiry::Reset);
    }
}

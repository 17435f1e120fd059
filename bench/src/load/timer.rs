//! Wakes an epoll instance at an instant, to the microsecond; its own timeouts are whole milliseconds.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

#[derive(Debug)]
pub(super) struct Timer(OwnedFd);

impl Timer {
    pub(super) fn new(poll: &Poll, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let descriptor = timer.as_raw_fd();
        let mut source = SourceFd(&descriptor);
        poll.registry()
            .register(&mut source, token, Interest::READABLE)?;
        Ok(Self(timer))
    }

    /// Wakes once after so long, and not when it was to before. Nobody needs to read it: it counts
    /// as new each time.
    pub(super) fn set(&self, after: Duration) -> io::Result<()> {
        // None at all would stop it.
        let after = after.max(Duration::from_nanos(1));
        let time = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(after).map_err(io::Error::other)?,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &time)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mio::Events;

    use super::*;

    #[test]
    fn it_wakes_each_time_and_not_early() -> io::Result<()> {
        const AFTER: Duration = Duration::from_micros(300);
        let mut poll = Poll::new()?;
        let timer = Timer::new(&poll, Token(7))?;
        let mut events = Events::with_capacity(4);
        for _ in 0..3 {
            let begun = Instant::now();
            timer.set(AFTER)?;
            poll.poll(&mut events, Some(Duration::from_secs(10)))?;
            assert_eq!(
                events.iter().next().map(mio::event::Event::token),
                Some(Token(7))
            );
            assert!(begun.elapsed() >= AFTER);
        }
        Ok(())
    }
}

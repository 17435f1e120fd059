//! How many commands a shard takes while it has still to write what the last ones brought.

/// Commands taken before the connections are written to that got something.
pub(super) const COMMANDS: usize = 256;

/// Lets commands in up to a number, and then no more until all connections are written to that were
/// to be written to when the last came: so the broker waits where a shard can't keep up, and with it
/// the publishers. What makes connections dirty otherwise does not keep it shut.
#[derive(Debug)]
pub(super) struct Gate {
    left: usize,
    /// Writes to come before it opens again.
    owed: usize,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            left: COMMANDS,
            owed: 0,
        }
    }

    /// How many commands may be taken.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// So many commands were taken, no more than [`Self::left`].
    pub(super) fn took(&mut self, commands: usize) {
        self.left = self.left.saturating_sub(commands);
    }

    /// After they were obeyed so many connections have to be written to.
    pub(super) fn owes(&mut self, writes: usize) {
        self.owed = writes;
    }

    /// A connection was written to.
    pub(super) fn wrote(&mut self) {
        self.owed = self.owed.saturating_sub(1);
    }

    /// No connection has to be written to.
    pub(super) fn is_clean(&mut self) {
        self.owed = 0;
    }

    /// Opens again if nothing is owed.
    pub(super) fn settle(&mut self) {
        if self.owed == 0 {
            self.left = COMMANDS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shut_until_what_the_commands_brought_is_written() {
        let mut gate = Gate::new();
        gate.took(COMMANDS);
        gate.owes(3);
        for _ in 0..2 {
            gate.wrote();
            gate.settle();
            assert_eq!(gate.left(), 0);
        }
        gate.wrote();
        gate.settle();
        assert_eq!(gate.left(), COMMANDS);
    }

    #[test]
    fn some_commands_are_let_in_before_that() {
        let mut gate = Gate::new();
        gate.took(1);
        gate.owes(20_000);
        gate.settle();
        assert_eq!(gate.left(), COMMANDS - 1);
    }

    #[test]
    fn it_opens_when_nothing_is_left_to_write_whatever_was_owed() {
        let mut gate = Gate::new();
        gate.took(COMMANDS);
        gate.owes(1000);
        gate.is_clean();
        gate.settle();
        assert_eq!(gate.left(), COMMANDS);
    }
}

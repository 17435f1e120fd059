//! How many commands a shard takes while it has still to write what the last ones brought.

/// What may be taken at once, after a rest: 256 small commands.
const FULL: usize = 1024;
/// What any command takes.
const COMMAND: usize = 4;
/// Bytes of an item that take one more.
const BYTES: usize = 1024;
/// Subscribers, each looked at for an item, that take one more.
const SUBSCRIBERS: usize = 64;

/// Lets commands in for a credit, of which each write to a connection brings one back.
///
/// So what is taken on grows no faster than it is written, in work and in bytes: a shard that can't
/// keep up makes the broker wait, and with it the publishers. And while a large fan-out is written,
/// there is room for the small ones of others.
#[derive(Debug)]
pub(super) struct Gate {
    credit: usize,
    /// What was taken beyond the credit.
    debt: usize,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            credit: FULL,
            debt: 0,
        }
    }

    /// Whether another command may be taken, whatever it takes.
    pub(super) fn is_open(&self) -> bool {
        self.credit > 0
    }

    /// A command was taken.
    pub(super) fn took(&mut self) {
        self.spend(COMMAND);
    }

    /// It brought an item of so many bytes.
    pub(super) fn brought(&mut self, bytes: usize) {
        self.spend(bytes / BYTES);
    }

    /// So many subscribers were looked at.
    pub(super) fn delivered(&mut self, subscribers: usize) {
        self.spend(subscribers / SUBSCRIBERS);
    }

    /// A connection was written to.
    pub(super) fn wrote(&mut self) {
        if self.debt > 0 {
            self.debt -= 1;
        } else {
            self.credit = FULL.min(self.credit + 1);
        }
    }

    /// No connection has to be written to.
    pub(super) fn is_clean(&mut self) {
        *self = Self::new();
    }

    fn spend(&mut self, cost: usize) {
        self.debt += cost.saturating_sub(self.credit);
        self.credit = self.credit.saturating_sub(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes small commands until it is shut, and says how many.
    fn take_all(gate: &mut Gate) -> usize {
        let mut taken = 0;
        while gate.is_open() {
            gate.took();
            taken += 1;
        }
        taken
    }

    fn write(gate: &mut Gate, writes: usize) {
        for _ in 0..writes {
            gate.wrote();
        }
    }

    #[test]
    fn it_is_open_again_as_far_as_was_written() {
        let mut gate = Gate::new();
        assert_eq!(take_all(&mut gate), 256);
        write(&mut gate, 40);
        assert_eq!(take_all(&mut gate), 10);
        write(&mut gate, 100_000);
        assert_eq!(take_all(&mut gate), 256, "a rest brings no more");
    }

    #[test]
    fn small_commands_are_let_in_while_a_large_fan_out_is_written() {
        let mut gate = Gate::new();
        gate.took();
        gate.delivered(19_000);
        for turn in 0..74 {
            for _ in 0..50 {
                assert!(gate.is_open(), "in turn {turn}");
                gate.took();
                gate.delivered(10);
            }
            write(&mut gate, 256);
        }
    }

    #[test]
    fn what_takes_much_is_let_in_once_and_then_waited_for() {
        let mut gate = Gate::new();
        gate.took();
        gate.delivered(1_000_000);
        assert!(!gate.is_open());
        write(&mut gate, 1_000_000 / SUBSCRIBERS - FULL);
        assert!(!gate.is_open());
        write(&mut gate, COMMAND + 1);
        assert!(gate.is_open());

        let mut gate = Gate::new();
        for _ in 0..100 {
            if gate.is_open() {
                gate.took();
                gate.brought(100_000);
            }
        }
        write(&mut gate, 20);
        assert!(!gate.is_open(), "for bytes, too");
    }

    #[test]
    fn it_opens_when_nothing_is_left_to_write() {
        let mut gate = Gate::new();
        gate.took();
        gate.delivered(1_000_000);
        gate.is_clean();
        assert_eq!(take_all(&mut gate), 256);
    }
}

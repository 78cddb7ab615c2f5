use crate::{Expense, Ledger, Paid, Refused};

/// Any error of a driver.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why nothing was paid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayError {
    /// The budget does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The ledger cannot be read or written.
    #[error("{0}")]
    Storage(#[source] BoxError),
}

/// What a driver keeps for the exporter: the ledger, and a file with its state.
pub trait Book {
    /// Charges an expense and returns when that is durable.
    ///
    /// # Errors
    /// [`PayError`].
    fn pay(&mut self, expense: &Expense<'_>) -> Result<Paid, PayError>;

    /// As [`crate::Ledger::last_window`].
    fn last_window(&self, stream: &str) -> Option<(u64, u64)>;

    /// Stores the state in place of the old one, whole or not at all, and returns when it is durable.
    ///
    /// # Errors
    /// Those of the system.
    fn store(&mut self, state: &[u8]) -> Result<(), BoxError>;
}

/// A book in memory: for simulations, whose budget lives and dies with them, and tests.
#[derive(Debug)]
pub struct MemoryBook {
    /// The ledger.
    pub ledger: Ledger,
    /// The last state that was stored.
    pub state: Vec<u8>,
}

impl MemoryBook {
    /// A new book.
    ///
    /// # Errors
    /// As [`Ledger::open_budget`].
    pub fn new(budget: crate::Budget) -> Result<Self, crate::LedgerError> {
        let mut ledger = Ledger::open_budget(budget, &[], None)?;
        ledger.mark_stored();
        Ok(Self {
            ledger,
            state: Vec::new(),
        })
    }
}

impl Book for MemoryBook {
    fn pay(&mut self, expense: &Expense<'_>) -> Result<Paid, PayError> {
        Ok(self.ledger.charge(expense)?.stored())
    }

    fn last_window(&self, stream: &str) -> Option<(u64, u64)> {
        self.ledger.last_window(stream)
    }

    fn store(&mut self, state: &[u8]) -> Result<(), BoxError> {
        self.state = state.to_vec();
        Ok(())
    }
}

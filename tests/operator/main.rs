//! What an operator asks and changes from day to day: `set`, `edit`, `why`, `show --explain`, names in completions, colours, and the
//! support bundle.

mod bundle;
mod changes;
mod completion;
mod looks;
mod reasons;

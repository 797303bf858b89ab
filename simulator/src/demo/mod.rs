//! What demonstrations in any world are told with: a screen, and an operator who is watched on it.

mod operator;
mod screen;

pub use operator::{Operator, OperatorError};
pub use screen::Screen;

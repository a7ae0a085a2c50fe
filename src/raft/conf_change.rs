//! How a change turns one configuration into the next.

//! Makes bytes durable in order.

-- Notifications: messages to people. A mail server would take them from here; none is part of the example.
CREATE SCHEMA IF NOT EXISTS notifications;

CREATE TABLE IF NOT EXISTS notifications.messages (
  message_id text PRIMARY KEY,
  template text NOT NULL,
  recipient text NOT NULL,
  -- What it is about: an order, a trip, a transfer.
  subject_id text NOT NULL,
  body jsonb NOT NULL,
  written_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS messages_by_subject ON notifications.messages (subject_id);

-- Commits decided on what a gateway has in memory, and a smaller index. Released files never change.

-- A client's own events on a document: what orders those of one stamp is looked up in the table. Built beside the old one, so
-- that the journal can be read meanwhile.
create index events_of_a_client_by_stamp on events (database, doc, client, stamp);
drop index events_of_a_client;
alter index events_of_a_client_by_stamp rename to events_of_a_client;

alter table heads add column mark bigint not null default 0;
comment on column heads.mark is 'Drawn anew by every commit, and where all documents are made again: only where it is the same is all else.';

-- Commits decided on what a gateway has in memory, and a smaller index. Released files never change.

alter table heads add column rebuilds bigint not null default 0;
comment on column heads.rebuilds is 'How often all documents were made again: commits decided on those from before are not kept.';

-- A client's own events on a document: what orders those of one stamp is looked up in the table.
drop index events_of_a_client;
create index events_of_a_client on events (database, doc, client, stamp);

-- Databases, journals, documents and the relay's progress. Released files never change.
--
-- events is the truth; documents is its fold and can be made again from it; everything under "relay" may be lost at
-- the cost of some repeated work.

create table databases (
    id         integer generated always as identity primary key,
    name       text collate "C" not null,
    created_at timestamptz not null default now(),
    constraint databases_name_is_used_once unique (name),
    constraint databases_name_has_its_shape check (name ~ '^[a-z][a-z0-9_-]{0,62}$')
);
comment on table databases is 'One tenant''s namespace each. Known by name in every region; the id is this Postgres'' own.';
comment on column databases.id is 'Short form of the name, in this Postgres only.';
comment on column databases.name is 'The name, the same in every region.';
comment on column databases.created_at is 'When this region made it or first heard of it.';

create table heads (
    database  integer primary key references databases (id),
    vector    text collate "C" not null default '',
    stamp     bigint not null default 0,
    digest    bytea not null default decode(repeat('00', 32), 'hex'),
    documents bigint not null default 0,
    constraint heads_digest_has_32_bytes check (length(digest) = 32)
) with (fillfactor = 20);
comment on table heads is 'One row a database: its row lock orders every commit of every gateway process.';
comment on column heads.database is 'Whose head.';
comment on column heads.vector is 'Last position of every journal held here, region:position, sorted by region.';
comment on column heads.stamp is 'Latest stamp in any journal held here: milliseconds times 65536 plus counter.';
comment on column heads.digest is 'Sum mod 2^256 over all documents of SHA-256(id, 0, version, 0, body).';
comment on column heads.documents is 'Documents that are there (not deleted).';

-- No foreign key here and in documents: the head, locked by whoever writes, already says that the database is there.
create table events (
    database    integer not null,
    region      text collate "C" not null,
    position    bigint not null,
    stamp       bigint not null,
    id          uuid not null,
    doc         text collate "C" not null,
    kind        text collate "C" not null,
    client      uuid not null,
    actor       text,
    batch       uuid not null,
    batch_index integer not null,
    batch_count integer not null,
    atomic      boolean not null,
    seen        text collate "C" not null,
    own         text collate "C" not null,
    edited_at   bigint,
    rules       text,
    salt        bytea not null,
    content     text not null,
    constraint events_position_is_used_once primary key (database, region, position),
    constraint events_op_is_once_a_journal unique (database, id, region),
    constraint events_position_is_counted_from_1 check (position > 0)
);
create index events_of_a_document on events (database, doc, stamp, region, position);
comment on table events is 'Every region''s journal, append-only. A row rebuilds to the exact bytes of its canonical line.';
comment on column events.database is 'Which database.';
comment on column events.region is 'Whose journal.';
comment on column events.position is '1, 2, 3 … along (database, region), in commit order, without a gap.';
comment on column events.stamp is 'Hybrid logical clock: milliseconds times 65536 plus counter; rises along the journal.';
comment on column events.id is 'The op''s id, of the client''s making.';
comment on column events.doc is 'The document, collection/key.';
comment on column events.kind is 'put, patch, increment, add, remove or delete.';
comment on column events.client is 'Who keeps its own order.';
comment on column events.actor is 'Who was authenticated.';
comment on column events.batch is 'The batch it came in.';
comment on column events.batch_index is 'Place in the batch, from 0.';
comment on column events.batch_count is 'Events of the batch.';
comment on column events.atomic is 'The batch is shown wholly or not at all.';
comment on column events.seen is 'What the author had seen, a vector; empty: nothing.';
comment on column events.own is 'What the author''s session covered beyond seen; empty: nothing.';
comment on column events.edited_at is 'The client''s own claim of when, milliseconds; data, never order.';
comment on column events.rules is 'Merge rules of the leaves it sets, canonical JSON; null: the default for all.';
comment on column events.salt is '16 random bytes, so that a hash over content gives nothing away.';
comment on column events.content is 'Canonical JSON {"effect":…,"sent":"<hex>"}: what may one day be erased while the rest stays.';

create function events_are_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the journal is append-only: % on events is refused', tg_op using errcode = 'insufficient_privilege';
end
$$;
comment on function events_are_append_only() is 'Refuses whatever would alter or remove an event, for every role.';
create trigger events_are_append_only before update or delete or truncate on events
    for each statement execute function events_are_append_only();
alter table events enable always trigger events_are_append_only;

create table documents (
    database  integer not null,
    doc       text collate "C" not null,
    version   text collate "C" not null,
    stamp     bigint not null,
    body      json,
    conflicts json,
    constraint documents_are_known_by_id primary key (database, doc)
) with (fillfactor = 80);
comment on table documents is 'The fold of events, a row a document that any event ever touched.';
comment on column documents.database is 'Which database.';
comment on column documents.doc is 'The document, collection/key.';
comment on column documents.version is 'The document''s vector: last event of each region that touched it.';
comment on column documents.stamp is 'Latest stamp of any event that touched it.';
comment on column documents.body is 'Canonical JSON; null: deleted, or never there.';
comment on column documents.conflicts is 'Ids of its conflicts, a sorted array; null: none.';

-- relay

create table leases (
    database integer primary key references databases (id),
    holder   uuid not null,
    until    timestamptz not null
) with (fillfactor = 20);
comment on table leases is 'Which gateway process relays a database. Losing one costs repeated work, never correctness.';
comment on column leases.database is 'Which database.';
comment on column leases.holder is 'The process, a random id of its own.';
comment on column leases.until is 'When another may take it.';

create table progress (
    database integer not null references databases (id),
    task     text collate "C" not null,
    vector   text collate "C" not null,
    constraint progress_is_kept_once primary key (database, task)
) with (fillfactor = 20);
comment on table progress is 'How far the relay''s senders have read. May lag: receivers drop what they have.';
comment on column progress.database is 'Which database.';
comment on column progress.task is 'journal: events published; changes: change messages published.';
comment on column progress.vector is 'What has been sent.';

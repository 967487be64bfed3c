-- One index by document where there were two. Released files never change.

-- A document's events in the order of their stamps, of all clients or of one: what is not that client's is passed over in the
-- index, and what orders those of one stamp is looked up in the table. Built beside the old ones, so that the journal can be read
-- meanwhile.
create index events_by_document on events (database, doc, stamp, client);
drop index events_of_a_document;
drop index events_of_a_client;

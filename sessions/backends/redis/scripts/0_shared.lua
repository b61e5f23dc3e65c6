-- What the operations share. ARGV: the operation, the prefix of all keys, and its own arguments. After the
-- operation, a colon and a number: for how many milliseconds a write keeps its session.
-- A moment is text of 18 digits: seconds since the year 1 (12), microseconds (6). Numbers here are doubles,
-- which do not hold it, and the comparison of texts orders it.

local call, sub, P = redis.call, string.sub, ARGV[2]
local name, kept = string.match(ARGV[1], '^([^:]*):?(%d*)$')
local expire_after = tonumber(kept)
local ops = {}
-- On a cluster the prefix has a hash tag: everything here is in its slot, and the claims of ids are elsewhere.
local is_part = string.find(P, '{', 1, true) ~= nil
-- Arguments of one command; Lua has a limit.
local AT_ONCE = 400
-- For so many seconds a call that was sent before a claim was lost does not store anything: longer than it takes.
local FENCE = 600
-- Claims of the sessions that were deleted: id, claim, in turn.
local released = {}

local function moment_of(seconds, microseconds)
  return string.format('%012.0f%06.0f', seconds, microseconds)
end

local function plus(moment, microseconds)
  local sum = tonumber(sub(moment, 13, 18)) + microseconds
  local seconds = math.floor(sum / 1000000)
  return moment_of(tonumber(sub(moment, 1, 12)) + seconds, sum - seconds * 1000000)
end

-- Orders the newest first, so that ids may ascend among sessions of one moment.
local function inverse(moment)
  return moment_of(999999999999 - tonumber(sub(moment, 1, 12)), 999999 - tonumber(sub(moment, 13, 18)))
end

-- The time of the server, or the microsecond after a session's last change.
local function next_moment(updated)
  local time, least = call('TIME'), plus(updated, 1)
  local now = moment_of(time[1] + 62135596800, time[2])
  return now < least and least or now
end

-- Milliseconds since 1970.
local function now()
  local time = call('TIME')
  return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
end

-- A small number among the arguments; a large one is passed on as text, for the server would get "1e+15".
local function number(index)
  return tonumber(ARGV[index])
end

local function base(tag)
  return P .. ':{' .. tag .. '}:'
end

-- The registry of message ids is in parts of a few ids each, which the server stores compactly.
local function part_of(id)
  return P .. ':ids:' .. sub(redis.sha1hex(id), 1, is_part and 1 or 3)
end

-- Text to compare JSON by: it follows the stored text where the two differ, as for 1.0 and 1.
local function canonical(value)
  local at = string.find(value, '\0', 1, true)
  return at and sub(value, at + 1) or value
end

local function owner_of(session_id)
  local found = call(
    'ZRANGEBYLEX', P .. ':sessions', '[' .. session_id .. '\0', '(' .. session_id .. '\1', 'LIMIT', 0, 1)
  return found[1] and sub(found[1], #session_id + 2)
end

local function keys_of(tag, session_id)
  local b = base(tag)
  return {
    id = session_id, tag = tag, index = b .. 'index', expiry = b .. 'expiry',
    key = b .. 's:' .. session_id, order = b .. 'o:' .. session_id, places = b .. 'i:' .. session_id,
  }
end

-- A session of a user, or with an empty tag of any user; nil if there is none.
local function open(tag, session_id)
  if tag == '' then
    tag = owner_of(session_id)
    if not tag then return nil end
  end
  local s = keys_of(tag, session_id)
  local found = call('HMGET', s.key, 'u', 'v', 'e')
  if not found[1] then return nil end
  s.updated, s.version, s.expires = found[1], found[2], found[3]
  return s
end

local function has_version(s, expected)
  return expected == '' or s.version == expected
end

-- Lets the list of users with sessions that expire begin with the one whose session is the next.
local function set_next(tag, expiry)
  local first = call('ZRANGE', expiry, 0, 0, 'WITHSCORES')
  if first[2] then
    -- Without memory for it, the time stays the former one, which is earlier.
    redis.pcall('ZADD', P .. ':expiring', first[2], tag)
  else
    call('ZREM', P .. ':expiring', tag)
  end
end

-- Its messages have to be stored already. The places of messages stay until their ids are free.
local function set_expiry(s, member)
  if expire_after then
    local at = string.format('%.0f', tonumber(now()) + expire_after)
    call('HSET', s.key, 'e', at)
    call('PEXPIREAT', s.key, at)
    call('PEXPIREAT', s.order, at)
    call('ZADD', s.expiry, at, member)
    set_next(s.tag, s.expiry)
  elseif s.expires then
    call('HDEL', s.key, 'e')
    call('PERSIST', s.key)
    call('PERSIST', s.order)
    call('ZREM', s.expiry, member)
    set_next(s.tag, s.expiry)
  end
end

local function set_updated(s, moment)
  local member = inverse(moment) .. s.id
  call('ZADD', s.index, 0, member)
  if s.updated and s.updated ~= moment then
    local old = inverse(s.updated) .. s.id
    call('ZREM', s.index, old)
    if s.expires then call('ZREM', s.expiry, old) end
  end
  call('HSET', s.key, 'u', moment)
  set_expiry(s, member)
end

local function changed(s, moment)
  set_updated(s, moment)
  call('HINCRBY', s.key, 'v', 1)
end

-- A member of the order: timestamp, write order, id, NUL, body. The write order is "0", or "1" and 19 digits.
local function place_length(member)
  return sub(member, 19, 19) == '0' and 19 or 38
end

local function id_of(member)
  return sub(member, place_length(member) + 1, string.find(member, '\0', 1, true) - 1)
end

local function body_of(member)
  return sub(member, string.find(member, '\0', 1, true) + 1)
end

-- The list of texts of a body, and its payload with the NUL before it, or ''.
local function parts_of(body)
  local at = string.find(body, '\0', 1, true)
  if not at then return cjson.decode(body), '' end
  return cjson.decode(sub(body, 1, at - 1)), sub(body, at)
end

local function member_at(s, place, id)
  local first = place .. id
  return call('ZRANGEBYLEX', s.order, '[' .. first .. '\0', '(' .. first .. '\1', 'LIMIT', 0, 1)[1]
end

local function find(s, id)
  local place = call('HGET', s.places, id)
  if place then return member_at(s, place, id), place end
end

local function insert_at(s, place, id, body)
  call('ZADD', s.order, 0, place .. id .. '\0' .. body)
  call('HSET', s.places, id, place)
  call('SADD', part_of(id), id)
end

-- Stores rows, a microsecond apart; returns the moment of the last.
local function insert(s, rows, moment)
  local members, places = {}, {}
  for k = 1, #rows do
    local i, n = rows[k], #places
    local id, given, written = ARGV[i], ARGV[i + 1], plus(moment, k - 1)
    local place = given == '' and written .. '0' or given .. '10' .. written
    members[n + 1], members[n + 2] = 0, place .. id .. '\0' .. ARGV[i + 2]
    places[n + 1], places[n + 2] = id, place
    call('SADD', part_of(id), id)
    if #places == AT_ONCE or k == #rows then
      call('ZADD', s.order, unpack(members))
      call('HSET', s.places, unpack(places))
      members, places = {}, {}
    end
  end
  return #rows > 0 and plus(moment, #rows - 1) or moment
end

local function remove(s, members)
  for _, member in ipairs(members) do
    local id = id_of(member)
    call('ZREM', s.order, member)
    call('HDEL', s.places, id)
    call('SREM', part_of(id), id)
  end
end

local function clear(s)
  for _, id in ipairs(call('HKEYS', s.places)) do
    call('SREM', part_of(id), id)
  end
  call('DEL', s.order, s.places)
end

-- Deletes a session, by its place in the index if it has expired; returns how many messages it had.
local function drop(s, member)
  member = member or inverse(s.updated) .. s.id
  local count = call('HLEN', s.places)
  clear(s)
  call('DEL', s.key)
  call('ZREM', s.index, member)
  call('ZREM', P .. ':sessions', s.id .. '\0' .. s.tag)
  if call('ZREM', s.expiry, member) == 1 then set_next(s.tag, s.expiry) end
  if call('EXISTS', s.index) == 0 then
    call('ZREM', P .. ':users', s.tag)
  end
  if is_part then
    local token = call('HGET', P .. ':claims', s.id)
    if token then
      call('HDEL', P .. ':claims', s.id)
      -- A call that was sent before does not store it under this claim.
      call('SET', P .. ':fence:' .. token, '', 'EX', FENCE)
      released[#released + 1] = s.id
      released[#released + 1] = s.tag .. '\0' .. token
    end
  end
  return count
end

-- Deletes sessions of a user that have expired, until there are enough messages for one call.
local function purge(tag, sessions)
  local messages = 10000
  for _, member in ipairs(call('ZRANGEBYSCORE', base(tag) .. 'expiry', '-inf', now(), 'LIMIT', 0, sessions)) do
    messages = messages - drop(keys_of(tag, sub(member, 19)), member)
    if messages <= 0 then return end
  end
end

-- The same of one or more users; returns whether there was any.
local function purge_users(users, sessions)
  local tags = call('ZRANGEBYSCORE', P .. ':expiring', '-inf', now(), 'LIMIT', 0, users)
  for _, tag in ipairs(tags) do purge(tag, sessions) end
  return #tags > 0
end

-- The owner of a session under an id that may be stored; one that has expired is deleted first.
local function owner_of_stored(session_id)
  local tag = owner_of(session_id)
  if not tag then return nil end
  local s = keys_of(tag, session_id)
  if call('EXISTS', s.key) == 1 then return tag end
  for _, member in ipairs(call('ZRANGEBYSCORE', s.expiry, '-inf', now())) do
    if sub(member, 19) == session_id then drop(s, member) end
  end
end

local function is_registered(id)
  local part = part_of(id)
  if call('SISMEMBER', part, id) == 0 then return false end
  -- It may be of a session that has expired.
  return not purge_users(100, 1000) or call('SISMEMBER', part, id) == 1
end

local function is_fenced(token)
  return token ~= '' and call('EXISTS', P .. ':fence:' .. token) == 1
end

local function is_elsewhere(s, id)
  return call('HEXISTS', s.places, id) == 0 and is_registered(id)
end

-- The places of the ids in rows, which are arguments from one on, in fours; false for one that is not stored.
local function places_of(s, first)
  local found, ids = {}, {}
  for i = first, #ARGV, 4 do
    ids[#ids + 1] = ARGV[i]
    if #ids == AT_ONCE or i + 4 > #ARGV then
      for _, place in ipairs(call('HMGET', s.places, unpack(ids))) do found[#found + 1] = place end
      ids = {}
    end
  end
  return found
end

-- Rows are arguments from one on, in fours: id, timestamp or '', body, '1' if the id is new, or '0' and the
-- claim of the id, if it has one.
-- Returns the numbers of the rows that are not stored; or else why none of them may be.
local function missing(s, first)
  local rows, seen = {}, {}
  local places = places_of(s, first)
  for i = first, #ARGV, 4 do
    local id, origin = ARGV[i], ARGV[i + 3]
    if seen[id] then return nil, { 'conflict' } end
    seen[id] = true
    local place = places[(i - first) / 4 + 1]
    local member = place and member_at(s, place, id)
    if member then
      local stored, given = (parts_of(body_of(member))), (parts_of(ARGV[i + 2]))
      if stored[1] ~= given[1] or stored[2] ~= given[2] then return nil, { 'conflict' } end
    elseif origin ~= '1' and is_registered(id) then
      return nil, { 'conflict' }
    elseif is_fenced(sub(origin, 2)) then
      return nil, { 'fenced', 'm', id }
    else
      rows[#rows + 1] = i
    end
  end
  return rows
end

local function all_rows(s, first)
  local rows, seen = {}, {}
  for i = first, #ARGV, 4 do
    local id = ARGV[i]
    if seen[id] or is_elsewhere(s, id) then return nil, { 'conflict' } end
    if is_fenced(sub(ARGV[i + 3], 2)) then return nil, { 'fenced', 'm', id } end
    seen[id] = true
    rows[#rows + 1] = i
  end
  return rows
end

local function register(s, token)
  call('ZADD', P .. ':sessions', 0, s.id .. '\0' .. s.tag)
  call('ZADD', P .. ':users', 0, s.tag)
  if token ~= '' then call('HSET', P .. ':claims', s.id, token) end
end

-- Sets metadata from pairs of arguments.
local function set_metadata(s, first, count)
  for i = first, first + 2 * count - 1, 2 do
    call('HSET', s.key, 'm' .. ARGV[i], ARGV[i + 1])
  end
end

-- Whether pairs of arguments differ from the metadata.
local function differs(s, first, count)
  for i = first, first + 2 * count - 1, 2 do
    local old = call('HGET', s.key, 'm' .. ARGV[i])
    if not old or canonical(old) ~= canonical(ARGV[i + 1]) then return true end
  end
  return false
end

-- The stored keys of metadata that are not among pairs of arguments.
local function others(s, first, count)
  local given, found = {}, {}
  for i = first, first + 2 * count - 1, 2 do given['m' .. ARGV[i]] = true end
  for _, field in ipairs(call('HKEYS', s.key)) do
    if sub(field, 1, 1) == 'm' and not given[field] then found[#found + 1] = field end
  end
  return found
end

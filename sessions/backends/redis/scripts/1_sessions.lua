-- Sessions, and new messages.

local function store(s, token, title, created, key, first, count)
  call('HSET', s.key, 't', title, 'c', created, 'u', created, 'v', '0', 'k', key)
  set_metadata(s, first, count)
  register(s, token)
end

-- tag, session id, claim of the id or '', title, moment, key of the call, number of pairs, pairs, rows
function ops.create()
  if expire_after then purge_users(1, 2) end
  local tag, session_id, token, created, key, count = ARGV[3], ARGV[4], ARGV[5], ARGV[7], ARGV[8], number(9)
  local s = keys_of(tag, session_id)
  local owner = owner_of_stored(session_id)
  if owner then
    return { owner == tag and call('HGET', s.key, 'k') == key and 'ok' or 'taken' }
  end
  if is_fenced(token) then return { 'fenced', 's', session_id } end
  local rows, refusal = missing(s, 10 + 2 * count)
  if not rows then return refusal end
  store(s, token, ARGV[6], created, key, 10, count)
  set_updated(s, insert(s, rows, created))
  return { 'ok' }
end

-- The same without rows; whether the id is taken, by whom, and by which call.
function ops.ensure()
  if expire_after then purge_users(1, 2) end
  local tag, session_id, token, created, key, count = ARGV[3], ARGV[4], ARGV[5], ARGV[7], ARGV[8], number(9)
  local owner = owner_of_stored(session_id)
  if owner and owner ~= tag then return { 'taken' } end
  local s = keys_of(tag, session_id)
  if owner then return { call('HGET', s.key, 'k') == key and 'mine' or 'stored' } end
  if is_fenced(token) then return { 'fenced', 's', session_id } end
  store(s, token, ARGV[6], created, key, 10, count)
  set_updated(s, created)
  return { 'ok' }
end

-- tag, session id, version, title, old title, touch, what the pairs do, number of pairs, pairs, removed keys
function ops.update()
  local s = open(ARGV[3], ARGV[4])
  if not s then return { 'absent' } end
  local title, old, mode, count = ARGV[6], ARGV[7], ARGV[9], number(10)
  if not has_version(s, ARGV[5]) then return { 'version' } end
  local present = call('HGET', s.key, 't')
  if old ~= '' and present ~= old then return { 'absent' } end
  local removed = {}
  if mode == 'replace' then removed = others(s, 11, count) end
  for i = 11 + 2 * count, #ARGV do
    local field = 'm' .. ARGV[i]
    if call('HEXISTS', s.key, field) == 1 then removed[#removed + 1] = field end
  end
  local is_new = differs(s, 11, count)
  if not is_new and #removed == 0 and (title == '' or title == present) then return { 'ok' } end
  if title ~= '' then call('HSET', s.key, 't', title) end
  if is_new then set_metadata(s, 11, count) end
  for _, field in ipairs(removed) do call('HDEL', s.key, field) end
  changed(s, ARGV[8] == '1' and next_moment(s.updated) or s.updated)
  return { 'ok' }
end

-- tag, session id, version
function ops.delete()
  local s = open(ARGV[3], ARGV[4])
  if not s then return { 'absent' } end
  if not has_version(s, ARGV[5]) then return { 'version' } end
  drop(s)
  return { 'ok' }
end

-- tag or '', session id, version, number of pairs, pairs, rows
function ops.append()
  if expire_after then purge_users(1, 2) end
  local s = open(ARGV[3], ARGV[4])
  if not s then return { 'absent' } end
  local count = number(6)
  local first = 7 + 2 * count
  local rows, refusal = missing(s, first)
  if not rows then return refusal end
  if #rows == 0 and first <= #ARGV then return { 'ok' } end
  if not has_version(s, ARGV[5]) then return { 'version' } end
  local merges = differs(s, 7, count)
  if #rows > 0 or merges then
    local last = insert(s, rows, next_moment(s.updated))
    if merges then set_metadata(s, 7, count) end
    changed(s, last)
  end
  return { 'ok' }
end

-- tag, session id of the copy, claim of the id or '', title, moment, key of the call, number of pairs, pairs,
-- source, last id or '', first characters of the new ids, random text
function ops.fork()
  local tag, token, created, key, count = ARGV[3], ARGV[5], ARGV[7], ARGV[8], number(9)
  local after = 10 + 2 * count
  local source, through, prefix, random = ARGV[after], ARGV[after + 1], ARGV[after + 2], ARGV[after + 3]
  local copy = keys_of(tag, ARGV[4])
  if call('HGET', copy.key, 'k') == key then return { 'ok' } end
  if owner_of_stored(copy.id) then return { 'taken' } end
  if is_fenced(token) then return { 'fenced', 's', copy.id } end
  local s = open(tag, source)
  if not s then return { 'absent' } end
  local members
  if through == '' then
    members = call('ZRANGE', s.order, 0, -1)
  else
    local member = find(s, through)
    if not member then return { 'place' } end
    members = call('ZRANGEBYLEX', s.order, '-', '[' .. member)
  end
  store(copy, token, ARGV[6], created, key, 10, count)
  for i, member in ipairs(members) do
    -- A UUIDv7 of this millisecond that sorts as its number does, as messages of one moment do.
    local high = math.floor(i / 4096)
    local id = prefix .. string.format('7%03x-8%03x-', high, i - high * 4096)
      .. sub(redis.sha1hex(random .. i), 1, 12)
    insert_at(copy, sub(member, 1, place_length(member)), id, body_of(member))
  end
  set_updated(copy, created)
  return { 'ok' }
end
